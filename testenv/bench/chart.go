package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// The chart has two panels, both with the number of callers to the right.
const (
	panelWidth, panelHeight = 380, 260
	marginLeft, marginTop   = 60, 40
	chartWidth              = 2 * (panelWidth + marginLeft + 30)
	chartHeight             = marginTop + panelHeight + 110
)

var colours = []string{"#1b6ca8", "#d1495b", "#3c9d4e", "#8d5aa7", "#e08e0b", "#4a4a4a", "#17a2a2"}

// panel is what one half of the chart shows.
type panel struct {
	title string
	left  float64
	value func(*result) float64
	most  float64 // value at the top
	ticks []float64
	// powers: values and ticks are logarithms to the base of two.
	powers bool
}

// draw is an SVG of the calls per second and the p50 of each operation.
func draw(results []result) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, chartHeight)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" fill="white"/>`)
	var counts []int
	var names []string
	slowest := 1.0
	for i := range results {
		r := &results[i]
		if !slices.Contains(counts, r.callers) {
			counts = append(counts, r.callers)
		}
		if !slices.Contains(names, r.operation) {
			names = append(names, r.operation)
		}
		slowest = max(slowest, r.multiple())
	}
	top := math.Pow(2, math.Ceil(math.Log2(slowest)))
	var powers []float64
	for tick := 1.0; tick <= top; tick *= 2 {
		powers = append(powers, math.Log2(tick))
	}
	for _, p := range []panel{
		{"calls/s, as a multiple of the bare token's", marginLeft, func(r *result) float64 { return r.ratio }, 1, []float64{0, .25, .5, .75, 1}, false},
		{"p50, as a multiple of the floors", 2*marginLeft + panelWidth + 20, func(r *result) float64 { return math.Log2(max(1, r.multiple())) }, max(1, math.Log2(top)), powers, true},
	} {
		p.draw(&b, counts, names, results)
	}
	for i, name := range names {
		x, y := marginLeft+(i%4)*220, marginTop+panelHeight+60+(i/4)*22
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="14" height="4" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", x, y-6, colours[i%len(colours)], x+20, y, name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (p *panel) draw(b *bytes.Buffer, counts []int, names []string, results []result) {
	x := func(callers int) float64 {
		i := slices.Index(counts, callers)
		return p.left + float64(i)*panelWidth/float64(max(1, len(counts)-1))
	}
	y := func(v float64) float64 { return marginTop + panelHeight*(1-min(v, p.most)/p.most) }
	fmt.Fprintf(b, `<text x="%.0f" y="%d" font-weight="bold">%s</text>`+"\n", p.left, marginTop-18, p.title)
	for _, tick := range p.ticks {
		label := tick
		if p.powers {
			label = math.Pow(2, tick)
		}
		fmt.Fprintf(b, `<path d="M%.0f %.1fh%d" stroke="#ddd"/><text x="%.0f" y="%.1f" text-anchor="end">%g</text>`+"\n", p.left, y(tick), panelWidth, p.left-6, y(tick)+4, label)
	}
	for _, n := range counts {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(n), marginTop+panelHeight+18, n)
	}
	fmt.Fprintf(b, `<text x="%.0f" y="%d" text-anchor="middle">callers</text>`+"\n", p.left+panelWidth/2, marginTop+panelHeight+36)
	for i, name := range names {
		line := ""
		for k := range results {
			if r := &results[k]; r.operation == name {
				line += fmt.Sprintf(" %.1f,%.1f", x(r.callers), y(p.value(r)))
			}
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke-width="2" stroke="%s" points="%s"/>`+"\n", colours[i%len(colours)], line[min(1, len(line)):])
	}
}
