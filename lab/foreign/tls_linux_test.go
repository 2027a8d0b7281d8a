package foreign_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStunnel puts stunnel4 in front of our plain server. A fast client reads through
// it, and one that takes 1 MB/s.
func TestStunnel(t *testing.T) {
	openssl := program(t, "openssl")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{100, 50_000} {
			fronts := stunnels(t, s, service{Manner: answers, Size: size})
			compare(t, row{name: fmt.Sprintf("stunnel4 to openssl s_client, %d B", size), tries: 20, atOnce: 4}, func(k stack, _ int) error {
				args := []string{openssl, "s_client", "-quiet", "-verify_quiet", "-connect", fronts[k]}
				return s.whole(t.Context(), command{Args: args}, size, 1)
			})
		}
	})
}

// TestStunnelAsks is TestStunnel with a client that sends a request.
func TestStunnelAsks(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		for _, size := range []int{100, 50_000} {
			fronts := stunnels(t, s, service{Manner: replies, Size: size})
			compare(t, row{name: fmt.Sprintf("stunnel4 to python ssl, a request, %d B", size), tries: 20, atOnce: 4}, func(k stack, _ int) error {
				return s.whole(t.Context(), python(py, readsPy, fronts[k], "--tls", "--says=hello"), size, 1)
			})
		}
	})
}

// TestStunnelSlow reads through stunnel4 at 1 MB/s.
func TestStunnelSlow(t *testing.T) {
	py := program(t, "python3")
	onBoth(t, func(t *testing.T, s site) {
		const size = 6_000_000
		fronts := stunnels(t, s, service{Manner: answers, Size: size})
		compare(t, row{name: "stunnel4 to a slow python ssl, 6 MB", tries: 3, atOnce: 3}, func(k stack, _ int) error {
			slow := python(py, readsPy, fronts[k], "--tls", "--rate=1e6")
			return s.whole(t.Context(), slow, size, 1)
		})
	})
}

// stunnels serves over each stack and puts stunnel4 in front of it, on their host. It
// returns the addresses that speak TLS.
func stunnels(t *testing.T, s site, v service) map[stack]string {
	t.Helper()
	stunnel, pem := program(t, "stunnel4"), certificate(t)
	fronts := map[stack]string{}
	for k, addr := range s.mustServe(t, v) {
		port := s.mustPort(t)
		fronts[k] = fmt.Sprintf("127.0.0.1:%d", port)
		config := writeFile(t, "stunnel.conf", fmt.Sprintf(stunnelConf, fronts[k], addr, pem))
		s.mustStart(t, command{Args: []string{stunnel, config}, Port: port, Limit: untilTheEnd})
	}
	return fronts
}

const stunnelConf = `
foreground = yes
pid =
debug = 4
[front]
accept = %s
connect = %s
cert = %s
`

// certificate writes a certificate with its key and returns the file.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "cert.pem",
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))+
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
}

// writeFile writes a file into a directory of its own and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
