// Command recorder stands on a unix socket of QEMU's migration and relays every connection, unchanged, to the
// next socket of the path. Per connection and direction it counts and hashes (digest.go) what passed, and keeps a
// timeline of bytes by wall-clock time, so that the lab can prove that the destination QEMU received what the source
// QEMU wrote, and can say how much of it passed after the VM had stopped. It knows nothing of the system under test.
//
//	recorder --listen PATH --dial PATH --report FILE --key HEX [--timeline-ms 10]
//
// The report (JSON, see report.go) is written whenever the last open connection has ended, on SIGUSR1, and on
// SIGTERM, which also ends the program. One line `{"listening": PATH}` on standard output says that it is ready.
package main

import (
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// dialRetryFor is how long the next socket of the path may take to appear: QEMU or a proxy may start after us.
	dialRetryFor = 10 * time.Second
	// dialRetryEvery is short against anything a migration takes.
	dialRetryEvery = 5 * time.Millisecond
	// hashersMayLag: a full set of buffers is hashed in a few ms, on a busy machine in some tens.
	hashersMayLag = 500 * time.Millisecond
)

type options struct {
	listenPath, dialPath, reportPath string
	owner                            string
	timelineBucket                   time.Duration
	mac                              cipher.AEAD
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(1)
	}
}

func parseOptions() (options, error) {
	var o options
	var timelineMs int
	var key string
	flag.StringVar(&o.listenPath, "listen", "", "unix socket to listen on")
	flag.StringVar(&o.dialPath, "dial", "", "unix socket to relay each connection to")
	flag.StringVar(&o.reportPath, "report", "", "file to write the JSON report to")
	flag.StringVar(&o.owner, "owner", "", "uid:gid to give the listening socket to, e.g. 107:107")
	flag.StringVar(&key, "key", "", "key of the digests, 32 hexadecimal digits, the same for the two recorders of a migration")
	flag.IntVar(&timelineMs, "timeline-ms", 10, "width of a bucket of the timeline in ms")
	flag.Parse()
	if o.listenPath == "" || o.dialPath == "" || o.reportPath == "" || flag.NArg() > 0 {
		return o, errors.New("usage: recorder --listen PATH --dial PATH --report FILE --key HEX [--timeline-ms 10] [--owner UID:GID]")
	}
	if timelineMs < 1 || timelineMs > 60_000 {
		return o, fmt.Errorf("--timeline-ms %d: want 1 to 60000", timelineMs)
	}
	o.timelineBucket = time.Duration(timelineMs) * time.Millisecond
	secret, err := hex.DecodeString(key)
	if err != nil || len(secret) != keyBytes {
		return o, fmt.Errorf("--key %q: want %d hexadecimal digits", key, 2*keyBytes)
	}
	if o.mac, err = newMac(secret); err != nil {
		return o, err
	}
	return o, nil
}

func run() error {
	o, err := parseOptions()
	if err != nil {
		return err
	}
	// A predecessor that was killed leaves its socket file behind; bind would fail on it.
	if err := os.Remove(o.listenPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.listenPath, Net: "unix"})
	if err != nil {
		return err
	}
	if o.owner != "" {
		var uid, gid int
		if _, err := fmt.Sscanf(o.owner, "%d:%d", &uid, &gid); err != nil {
			return fmt.Errorf("--owner %q: want UID:GID", o.owner)
		}
		if err := os.Chown(o.listenPath, uid, gid); err != nil {
			return err
		}
	}
	r := &recorder{options: o, started: time.Now()}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	// Written once at the start, so that a reader never mistakes "no connection came" for "no recorder ran".
	if err := r.writeReport(); err != nil {
		return err
	}
	ready, _ := json.Marshal(map[string]string{"listening": o.listenPath})
	fmt.Println(string(ready))
	go r.acceptLoop(listener)
	for received := range signals {
		if received == syscall.SIGUSR1 {
			if err := r.writeReport(); err != nil {
				fmt.Fprintln(os.Stderr, "recorder:", err)
			}
			continue
		}
		listener.Close()
		r.waitForHashers()
		return r.writeReport()
	}
	return nil
}

// waitForHashers lets the hashes of idle connections catch up with their counts: virt-handler's proxy does not close
// the leg it dialed, so connections of a migration that has succeeded may still be open here.
func (r *recorder) waitForHashers() {
	r.mutex.Lock()
	connections := append([]*connection(nil), r.connections...)
	r.mutex.Unlock()
	deadline := time.Now().Add(hashersMayLag)
	for _, c := range connections {
		for !(c.forward.settled() && c.back.settled()) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
	}
}

// recorder holds every connection it has relayed, ended or not.
type recorder struct {
	options options
	started time.Time

	mutex       sync.Mutex
	connections []*connection
	open        int

	reportMutex sync.Mutex
}

// acceptLoop dials for one connection before it accepts the next: the next hop sees connections in the order in which
// they were made (QEMU 7.2 takes the first one as its main channel).
func (r *recorder) acceptLoop(listener *net.UnixListener) {
	for {
		accepted, err := listener.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "recorder: accept:", err)
			}
			return
		}
		c := newConnection(r.options.timelineBucket, r.options.mac)
		r.mutex.Lock()
		c.ordinal = len(r.connections)
		r.connections = append(r.connections, c)
		r.open++
		r.mutex.Unlock()

		dialed, err := dialWithRetry(r.options.dialPath)
		if err != nil {
			c.fail(err)
			accepted.Close()
			r.ended()
			continue
		}
		go func() {
			c.relay(accepted, dialed)
			r.ended()
		}()
	}
}

func (r *recorder) ended() {
	r.mutex.Lock()
	r.open--
	last := r.open == 0
	r.mutex.Unlock()
	if last {
		if err := r.writeReport(); err != nil {
			fmt.Fprintln(os.Stderr, "recorder:", err)
		}
	}
}

func dialWithRetry(path string) (*net.UnixConn, error) {
	deadline := time.Now().Add(dialRetryFor)
	for {
		dialed, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			return dialed, nil
		}
		// ENOENT: not bound yet. ECONNREFUSED: bound, not listening yet. EAGAIN: its backlog is full.
		again := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
		if !again || time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(dialRetryEvery)
	}
}
