//go:build linux

package main

import (
	"fmt"
	"image/color"
	"io"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// barRows returns the scenarios of the bar chart with their short names.
func barRows() [][2]string {
	return [][2]string{
		{"dial/unspecified", "unspecified"}, {"dial/loopback", "loopback"},
		{"dial/specific/links=2", "specific,\n2 links"}, {"dial/specific/links=202", "specific,\n202 links"},
		{"dial/two-ports/links=202", "two ports,\n202 links"},
		{"dial/global", "global\naddress"}, {"dial/refused", "refused"}, {"dial/held", "held peer"},
	}
}

// barPeers returns the implementations in the bar chart: all except the base and the
// one that differs little from another.
func barPeers() []string {
	var names []string
	for _, p := range allPeers() {
		if p.Name != plain && p.Name != floorNew {
			names = append(names, p.Name)
		}
	}
	return names
}

// barTop is where bars are cut off; the figure on top still shows the value.
const barTop = 3.0

// palette returns the colour of an implementation, safe for the colour-blind, and one
// more for newcomers.
func palette(peer string) color.Color {
	known := map[string]color.Color{
		ours:     color.RGBA{0x00, 0x72, 0xb2, 0xff},
		libp2p:   color.RGBA{0xd5, 0x5e, 0x00, 0xff},
		naive:    color.RGBA{0xe6, 0x9f, 0x00, 0xff},
		"manet":  color.RGBA{0xcc, 0x79, 0xa7, 0xff},
		plain:    color.RGBA{0x55, 0x55, 0x55, 0xff},
		floor:    color.RGBA{0xbb, 0xbb, 0xbb, 0xff},
		floorNew: color.RGBA{0xdd, 0xdd, 0xdd, 0xff},
	}
	if c, ok := known[peer]; ok {
		return c
	}
	return color.RGBA{0x00, 0x9e, 0x73, 0xff}
}

// newPlot returns an empty picture that says where and when the run was.
func (r Report) newPlot(title, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text = title + "\n" + r.where()
	p.Title.Padding = vg.Points(6)
	p.Y.Label.Text = y
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.Padding = vg.Points(8), vg.Points(2)
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		f.Variant, f.Size = "Sans", vg.Points(10)
	}
	return p
}

// writeSVG draws a picture.
func writeSVG(w io.Writer, p *plot.Plot, width, height vg.Length) error {
	c := vgsvg.New(width, height)
	p.Draw(draw.New(c))
	_, err := c.WriteTo(w)
	return err
}

// plotRatios draws the cost of a dial in multiples of net.Dialer's.
func (r Report) plotRatios(w io.Writer) error {
	p := r.newPlot("Cost of a dial with its reset, in multiples of net.Dialer (median of the rounds)", "x net.Dialer")
	p.Y.Max = barTop + 0.8 // room for the legend
	var ticks []string
	for _, sc := range barRows() {
		ticks = append(ticks, sc[1])
	}
	found := false
	for i, peer := range barPeers() {
		has, err := r.addBars(p, peer, i)
		if err != nil {
			return err
		}
		found = found || has
	}
	if !found {
		return errNoData
	}
	p.Add(lineAt(1, float64(len(ticks))-0.5))
	p.NominalX(ticks...)
	return writeSVG(w, p, 11*vg.Inch, 4.5*vg.Inch)
}

// lineAt is a thin line across the picture.
func lineAt(y, right float64) plot.Plotter {
	line := &plotter.Line{XYs: plotter.XYs{{X: -0.5, Y: y}, {X: right, Y: y}}, LineStyle: plotter.DefaultLineStyle}
	line.Dashes = []vg.Length{vg.Points(3), vg.Points(3)}
	return line
}

// addBars draws one implementation's bars with their figures and reports whether
// there were any.
func (r Report) addBars(p *plot.Plot, peer string, i int) (bool, error) {
	const width = 13.0
	heights := make(plotter.Values, len(barRows()))
	labels := plotter.XYLabels{}
	for j, sc := range barRows() {
		v := r.ratioOf(sc[0], peer)
		if v == 0 {
			continue
		}
		heights[j] = min(v, barTop)
		labels.XYs = append(labels.XYs, plotter.XY{X: float64(j), Y: heights[j]})
		labels.Labels = append(labels.Labels, fmt.Sprintf("%.2f", v))
	}
	if len(labels.XYs) == 0 {
		return false, nil
	}
	bars, err := plotter.NewBarChart(heights, vg.Points(width))
	if err != nil {
		return false, err
	}
	bars.Color, bars.LineStyle.Width = palette(peer), 0
	bars.Offset = vg.Points(width * (float64(i) - float64(len(barPeers())-1)/2))
	p.Add(bars)
	p.Legend.Add(peer, bars)
	return true, addFigures(p, labels, bars.Offset)
}

// addFigures writes the figures on top of the bars.
func addFigures(p *plot.Plot, at plotter.XYLabels, offset vg.Length) error {
	labels, err := plotter.NewLabels(at)
	if err != nil {
		return err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Font.Variant, labels.TextStyle[i].Font.Size = "Sans", vg.Points(6)
		labels.TextStyle[i].XAlign = draw.XCenter
	}
	labels.Offset = vg.Point{X: offset, Y: vg.Points(2)}
	p.Add(labels)
	return nil
}

// ratioOf returns the median ratio of a peer in a scenario, or 0 if there is none.
func (r Report) ratioOf(scenario, peer string) float64 {
	for _, res := range r.Results {
		if res.Scenario == scenario && res.Peer == peer {
			return r.ratio(res, plain).Mid
		}
	}
	return 0
}

// plotLive draws the cost of a dial against the connections held.
func (r Report) plotLive(w io.Writer) error {
	p := r.newPlot("One dial with connections held, two loopback listeners on one port", "µs, median (log scale)")
	logScale(p)
	p.X.Label.Text = "live connections"
	return r.plotCurves(w, p, func(sc Scenario) int { return sc.Live })
}

// plotLinks draws the cost of a dial against the links of the host.
func (r Report) plotLinks(w io.Writer) error {
	p := r.newPlot("Dial + reset with a specific listener", "µs, median (log scale)")
	p.X.Label.Text = "links of the host"
	logScale(p)
	return r.plotCurves(w, p, func(sc Scenario) int {
		if sc.Name != fmt.Sprintf("dial/specific/links=%d", sc.Links) {
			return 0
		}
		return sc.Links
	})
}

// logScale makes the axis of the times logarithmic.
func logScale(p *plot.Plot) {
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Min = 10
}

// ticks returns the places where x was measured.
func (r Report) ticks(x func(Scenario) int) []plot.Tick {
	var ticks []plot.Tick
	for _, sc := range r.Scenarios {
		if n := x(sc); n != 0 {
			ticks = append(ticks, plot.Tick{Value: float64(n), Label: fmt.Sprint(n)})
		}
	}
	return ticks
}

// plotCurves draws a curve for each peer over the scenarios for which x is not 0,
// with the first peer on top.
func (r Report) plotCurves(w io.Writer, p *plot.Plot, x func(Scenario) int) error {
	found := false
	for _, peer := range slices.Backward(allPeers()) {
		curve := r.curve(peer.Name, x)
		if len(curve) == 0 || peer.Name == floorNew { // floorNew lies just below floor
			continue
		}
		found = true
		if err := addCurve(p, peer.Name, curve); err != nil {
			return err
		}
	}
	if !found {
		return errNoData
	}
	p.X.Max *= 1.06 // room for the last label
	p.Y.Max *= 4    // room for the legend
	p.X.Tick.Marker = plot.ConstantTicks(r.ticks(x))
	return writeSVG(w, p, 8*vg.Inch, 4.5*vg.Inch)
}

// addCurve draws one implementation's curve.
func addCurve(p *plot.Plot, peer string, curve plotter.XYs) error {
	line, points, err := plotter.NewLinePoints(curve)
	if err != nil {
		return err
	}
	line.Color, points.Color = palette(peer), palette(peer)
	line.Width, points.Shape = vg.Points(1.5), draw.CircleGlyph{}
	p.Add(line, points)
	p.Legend.Add(peer, line, points)
	return nil
}

// curve returns a peer's times in µs over x.
func (r Report) curve(peer string, x func(Scenario) int) plotter.XYs {
	var curve plotter.XYs
	for _, sc := range r.Scenarios {
		if x(sc) == 0 {
			continue
		}
		i := slices.IndexFunc(r.Results, func(res Result) bool {
			return res.Scenario == sc.Name && res.Peer == peer && res.Err == ""
		})
		if i >= 0 {
			y := spreadOf(column(r.Results[i].Samples, Sample.value)).Mid / 1000
			curve = append(curve, plotter.XY{X: float64(x(sc)), Y: y})
		}
	}
	return curve
}
