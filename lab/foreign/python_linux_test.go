package foreign_test

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"
)

// The programs in Python, run with -c so that no test depends on its directory.
var (
	//go:embed testdata/reads.py
	readsPy string
	//go:embed testdata/asyncio_reads.py
	asyncioReadsPy string
	//go:embed testdata/asyncio_serves.py
	asyncioServesPy string
	//go:embed testdata/selectors_reads.py
	selectorsReadsPy string
	//go:embed testdata/sees.py
	seesPy string
)

// python returns a command by which python3, at path py, runs a program with the host
// and port of addr and more arguments.
func python(py, source, addr string, args ...string) command {
	host, port := split(addr)
	return command{Args: append([]string{py, "-c", source, host, port}, args...)}
}

// split splits an address of a test.
func split(addr string) (host, port string) {
	host, port, _ = strings.Cut(addr, ":")
	return host, port
}

// TestPythonReads reads answers with asyncio and with each kind of selector.
func TestPythonReads(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		const size = 50_000
		addrs := s.mustServe(t, service{Manner: answers, Size: size})
		for _, p := range []struct {
			name, source string
			args         []string
		}{
			{"asyncio streams", asyncioReadsPy, nil},
			{"PollSelector", selectorsReadsPy, []string{"PollSelector"}},
			{"EpollSelector", selectorsReadsPy, []string{"EpollSelector"}},
			{"SelectSelector", selectorsReadsPy, []string{"SelectSelector"}},
		} {
			compare(t, row{name: "python " + p.name + " reads 50 kB", tries: 10, atOnce: 2}, func(k stack, _ int) error {
				return s.whole(t.Context(), python(py, p.source, addrs[k], p.args...), size, 1)
			})
		}
	})
}

// TestPythonServes sends to an asyncio server.
func TestPythonServes(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{1000, 200_000} {
			compare(t, row{name: fmt.Sprintf("sends %d B to python asyncio", size), tries: 10, atOnce: 2}, func(k stack, _ int) error {
				return s.send(t.Context(), k, size, func(port int) command {
					return python(py, asyncioServesPy, fmt.Sprintf("%s:%d", s.theirsAt, port))
				})
			})
		}
	})
}
