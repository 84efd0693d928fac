package bench

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Sizes of a plot, in its own units.
const (
	plotWidth, barHeight, barGap = 640, 20, 8
	labelWidth, valueWidth       = 120, 90
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
		if strings.HasPrefix(x.peer, Vias) {
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
