// The proxy proper: accept, dial, copy both ways, and forget about the rest.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

type proxy struct {
	dial      endpoint
	clientTLS *tls.Config // nil: plain
	stop      chan struct{}
}

func (p *proxy) acceptLoop(listener net.Listener) {
	for {
		accepted, err := listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "migration-proxy: accept:", err)
			}
			return
		}
		go p.handle(accepted)
	}
}

// handle has three properties of virt-handler's proxy that others rely on or suffer from:
//   - the first end of either direction ends it; what is in flight the other way is cut,
//   - only the accepted leg is closed; the dialed leg stays open until its peer closes it or the garbage collector
//     finds it, and no half-close is ever passed on,
//   - one dial without retry (with TLS the handshake is done at once): if nobody listens there, the accepted leg is
//     closed.
func (p *proxy) handle(accepted net.Conn) {
	defer accepted.Close()

	var dialed net.Conn
	var err error
	if p.dial.network == "tcp" && p.clientTLS != nil {
		dialed, err = tls.Dial(p.dial.network, p.dial.address, p.clientTLS)
	} else {
		dialed, err = net.Dial(p.dial.network, p.dial.address)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "migration-proxy: dial:", err)
		return
	}

	returnEnded := make(chan error, 1)
	forwardEnded := make(chan error, 1)
	go func() {
		_, err := io.Copy(accepted, dialed)
		returnEnded <- err
	}()
	go func() {
		_, err := io.Copy(dialed, accepted)
		forwardEnded <- err
	}()

	select {
	case err = <-forwardEnded:
	case err = <-returnEnded:
	case <-p.stop:
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "migration-proxy:", err)
	}
}
