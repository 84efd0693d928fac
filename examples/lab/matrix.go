package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/viasnet/vias/internal/lab"
)

// matrix builds one lab after the other, one for each datapath, and prints the rows of
// all of them.
func matrix(ctx context.Context, f *flags) error {
	var all lab.Matrix
	for _, d := range f.datapaths {
		rows, err := matrixOf(ctx, f, d)
		all = append(all, rows...)
		if err != nil {
			return fmt.Errorf("datapath %s: %w", d, err)
		}
	}
	fmt.Println()
	all.Print(os.Stdout)
	if all.Failed() {
		return errFailed
	}
	return nil
}

func matrixOf(ctx context.Context, f *flags, d lab.Datapath) (rows lab.Matrix, err error) {
	cfg := f.lab
	cfg.Datapath = d
	l, err := lab.Up(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		err = errors.Join(err, l.Down(ctx))
	}()
	program, err := nodeProgram(ctx, f.node, l.Dir())
	if err != nil {
		return nil, err
	}
	if err := l.StartNodes(ctx, program); err != nil {
		return nil, err
	}
	return l.Matrix(ctx, lab.MatrixConfig{Duration: f.measure.Duration, Rounds: f.measure.Rounds,
		Progress: func(round int, k lab.Kind, m lab.Mode, c lab.Cell) {
			fmt.Printf("%s round %d %s %-7s %s\n", d, round, k, m, c.Text(k))
		}})
}
