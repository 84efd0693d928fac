// Package vias
package vias
