package main

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkRelay is the rate of one direction of one connection, hashing included, between two ends that do nothing
// else: `go test -run ^$ -bench Relay ./cmd/recorder`.
func BenchmarkRelay(b *testing.B) {
	path := filepath.Join(b.TempDir(), "out.sock")
	farListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer farListener.Close()
	nearPath := filepath.Join(b.TempDir(), "in.sock")
	nearListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: nearPath, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer nearListener.Close()
	mac, err := newMac(make([]byte, keyBytes))
	if err != nil {
		b.Fatal(err)
	}
	r := &recorder{
		options: options{dialPath: path, reportPath: filepath.Join(b.TempDir(), "report.json"), timelineBucket: 10 * time.Millisecond, mac: mac},
	}
	go r.acceptLoop(nearListener)

	near, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: nearPath, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	far, err := farListener.AcceptUnix()
	if err != nil {
		b.Fatal(err)
	}
	received := make(chan int64)
	go func() {
		count, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{far}, make([]byte, 256*1024))
		far.Close()
		received <- count
	}()

	chunk := make([]byte, 256*1024)
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		if _, err := near.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	near.CloseWrite()
	if count := <-received; count != int64(b.N)*int64(len(chunk)) {
		b.Fatalf("received %d bytes of %d", count, int64(b.N)*int64(len(chunk)))
	}
	b.StopTimer()
	near.Close()
}
