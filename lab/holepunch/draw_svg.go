package holepunch

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

// Sizes of the picture, in pixels.
const (
	svgPanel  = 380 // width of a panel
	svgTop    = 190 // y of the first packet
	svgTime   = 300 // height of the time shown
	svgHeight = svgTop + svgTime + 70
	svgLeft   = 70 // the lanes within a panel
	svgRight  = svgPanel - 40
)

// DrawSVG draws the panels side by side. Time runs downwards, and SYNs that cross are
// lines that cross.
func DrawSVG(w io.Writer, cfg Config, panels []Panel) error {
	var b strings.Builder
	width := svgPanel * len(panels)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">
<style>.lane{stroke:#555;stroke-width:2}.in{stroke:#0a7d33;fill:#0a7d33}.out{stroke:#c0262d;fill:#c0262d}.box{fill:#eef2f7;stroke:#555}text.in,text.out{stroke:#fff;stroke-width:3px;paint-order:stroke}.small{font-size:11px;fill:#555}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="16" y="24" font-size="16" font-weight="bold">Two hosts behind NATs dial each other; round trip %v, b %v later</text>
<text x="16" y="42" class="small">Green: the NAT that it reaches lets it in, since it has sent to that address from the same mapping. Red: it does not.</text>
`, width, svgHeight, width, svgHeight, cfg.RTT, cfg.Late)
	shown := window(panels)
	for i, p := range panels {
		fmt.Fprintf(&b, "<g transform=\"translate(%d,0)\">\n%s</g>\n", i*svgPanel, p.svg(shown))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// window is the period that all panels show: until the first one is connected.
func window(panels []Panel) time.Duration {
	var end time.Duration
	drawn, _ := panels[0].arrows()
	for _, x := range drawn {
		end = max(end, x.came)
	}
	return max(end, 2*panels[0].Scene.RTT)
}

func (p Panel) svg(shown time.Duration) string {
	var b strings.Builder
	a, bb := p.mappings()
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"72\" font-size=\"14\" font-weight=\"bold\">%s</text>\n", 16, html.EscapeString(p.Title))
	fmt.Fprintf(&b, "<text x=\"16\" y=\"90\" class=\"small\">%s</text>\n<text x=\"16\" y=\"106\" class=\"small\">%s</text>\n", html.EscapeString(a), html.EscapeString(bb))
	for name, x := range map[string]int{"a": svgLeft, "b": svgRight} {
		b.WriteString(lane(name, x))
	}
	drawn, more := p.arrows()
	for _, x := range drawn {
		if x.came > shown {
			more++
			continue
		}
		b.WriteString(x.svg(shown))
	}
	if more > 0 {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" class=\"small\">and %d more packets later</text>\n", svgLeft, svgTop+svgTime+20, more)
	}
	class := map[bool]string{true: "in", false: "out"}[p.Result.Connected()]
	fmt.Fprintf(&b, "<text x=\"16\" y=\"%d\" class=\"%s\" font-size=\"14\" font-weight=\"bold\">%s</text>\n", svgHeight-20, class, html.EscapeString(p.verdict()))
	return b.String()
}

// lane draws a host, its NAT and its line of time.
func lane(host string, x int) string {
	nat := strings.ToUpper(host)
	return fmt.Sprintf(`<rect class="box" x="%d" y="118" width="60" height="22" rx="4"/><text x="%d" y="133" text-anchor="middle">%s</text>
<line class="lane" x1="%d" y1="140" x2="%d" y2="150"/><rect class="box" x="%d" y="150" width="60" height="22"/><text x="%d" y="165" text-anchor="middle">NAT %s</text>
<line class="lane" x1="%d" y1="172" x2="%d" y2="%d"/>
`, x-30, x, host, x, x, x-30, x, nat, x, x, svgTop+svgTime)
}

// svg draws an arrow from the time at which the packet was sent to that at which it
// arrived.
func (x arrow) svg(shown time.Duration) string {
	from, to, anchor, at := svgLeft, svgRight, "start", svgLeft+6
	if !x.rightward {
		from, to, anchor, at = svgRight, svgLeft, "end", svgRight-6
	}
	class := map[bool]string{true: "in", false: "out"}[x.admitted]
	y1, y2 := svgY(x.sent, shown), svgY(x.came, shown)
	tip := fmt.Sprintf(`<circle class="%s" cx="%d" cy="%.1f" r="4"/>`, class, to, y2)
	if !x.admitted {
		tip = fmt.Sprintf(`<path class="%s" stroke-width="2" d="M%d %.1f l10 10 m0 -10 l-10 10"/>`, class, to-5, y2-5)
	}
	return fmt.Sprintf(`<line class="%s" stroke-width="1.5" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>%s<text class="%s" x="%d" y="%.1f" text-anchor="%s">%s</text>
`, class, from, y1, to, y2, tip, class, at, y1-3, anchor, html.EscapeString(x.label))
}

func svgY(at, shown time.Duration) float64 {
	return svgTop + svgTime*min(1, float64(at)/float64(shown))
}
