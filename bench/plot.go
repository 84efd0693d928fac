package bench

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Sizes of a plot, in its own units.
const (
	plotWidth, barHeight, barGap = 640, 20, 8
	labelWidth, valueWidth       = 150, 90
	plotTop                      = 36
)

// WriteSVG draws a test's medians as bars, one a peer.
func (r *Report) WriteSVG(w io.Writer, mode, test, title string) error {
	type bar struct {
		peer  string
		value float64
	}
	var bars []bar
	longest := 0.0
	for _, peer := range r.Peers() {
		if v, ok := r.Median(mode, peer, test); ok {
			bars = append(bars, bar{peer, v})
			longest = max(longest, v)
		}
	}
	height := plotTop + len(bars)*(barHeight+barGap)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/><text x="0" y="18" font-weight="bold">%s</text>`+"\n", plotWidth, height, escaped(title))
	for i, x := range bars {
		y, length, colour := plotTop+i*(barHeight+barGap), 0.0, "#9ab"
		if longest > 0 {
			length = x.value / longest * (plotWidth - labelWidth - valueWidth)
		}
		if strings.HasPrefix(x.peer, Vias) || x.peer == Bypass {
			colour = "#276"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-8, y+15, escaped(x.peer))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, labelWidth, y, length, barHeight, colour)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", labelWidth+length+6, y+15, r.cell(mode, x.peer, test))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

// Sizes of a line's plot.
const lineHeight, lineLeft, lineBottom = 240, 40, 30

// WriteLine draws a test's medians over peers that are numbers, on a logarithmic scale of these.
// Others are left out.
func (r *Report) WriteLine(w io.Writer, mode, test, title string) error {
	type point struct {
		peer    string
		x, y    float64
		atX, at float64 // in the plot
	}
	var points []point
	least, most, highest := math.Inf(1), math.Inf(-1), 0.0
	for _, peer := range r.Peers() {
		n, err := strconv.ParseFloat(peer, 64)
		y, ok := r.Median(mode, peer, test)
		if err != nil || !ok || n <= 0 {
			continue
		}
		x := math.Log(n)
		points = append(points, point{peer: peer, x: x, y: y})
		least, most, highest = min(least, x), max(most, x), max(highest, y)
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	var path, marks strings.Builder
	for _, p := range points {
		p.atX, p.at = lineLeft, lineHeight-lineBottom
		if most > least {
			p.atX += (p.x - least) / (most - least) * (plotWidth - lineLeft - valueWidth)
		}
		if highest > 0 {
			p.at -= p.y / highest * (lineHeight - lineBottom - plotTop - 20)
		}
		fmt.Fprintf(&path, "%.1f,%.1f ", p.atX, p.at)
		fmt.Fprintf(&marks, `<circle cx="%.1f" cy="%.1f" r="4" fill="#276"/><text x="%.1f" y="%.1f">%s</text>`, p.atX, p.at, p.atX+7, p.at-7, r.cell(mode, p.peer, test))
		fmt.Fprintf(&marks, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", p.atX, lineHeight-8, escaped(p.peer))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, lineHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/><text x="0" y="18" font-weight="bold">%s</text>`+"\n", plotWidth, lineHeight, escaped(title))
	fmt.Fprintf(&b, `<path d="M %d %d H %d" stroke="#9ab"/><polyline points="%s" fill="none" stroke="#276" stroke-width="2"/>`+"\n",
		lineLeft, lineHeight-lineBottom, plotWidth-valueWidth/2, strings.TrimSpace(path.String()))
	b.WriteString(marks.String() + "</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
