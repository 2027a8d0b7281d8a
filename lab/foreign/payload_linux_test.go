package foreign_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
)

// payload returns the answer of a size. Its period is prime, so that a piece that is
// missing or misplaced shows.
func payload(size int) []byte {
	const period = 251
	one := make([]byte, period)
	for i := range one {
		one[i] = 'A' + byte(i%53)
	}
	return bytes.Repeat(one, size/period+1)[:size]
}

// payloadSum returns the hash of an answer, times over.
func payloadSum(size, times int) string {
	h := sha256.New()
	for range times {
		h.Write(payload(size))
	}
	return hex.EncodeToString(h.Sum(nil))
}
