// Command migration-proxy stands in for the two proxies that KubeVirt's virt-handler puts into a migration: on the
// source node unix socket -> TLS, on the target node TLS -> unix socket. It makes the same calls in the same order,
// because what they do not do matters: a half-close is not passed on, and the leg that was dialed is never closed.
//
//	migration-proxy --listen unix:PATH|tcp:ADDR --dial unix:PATH|tcp:ADDR [--certs DIR | --no-tls] [--owner UID:GID]
//	migration-proxy --make-certs DIR
//
// One line `{"listening": "unix:PATH"}` or `{"listening": "tcp:ADDR"}` (with the real port) on standard output says
// that it is ready. SIGTERM closes the listener, removes its socket, ends the connections and the program.
package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "migration-proxy:", err)
		os.Exit(1)
	}
}

// endpoint is a network and an address as package net takes them.
type endpoint struct{ network, address string }

func (e endpoint) String() string { return e.network + ":" + e.address }

func parseEndpoint(flagName, value string) (endpoint, error) {
	network, address, found := strings.Cut(value, ":")
	if !found || address == "" || (network != "unix" && network != "tcp") {
		return endpoint{}, fmt.Errorf("%s %q: want unix:PATH or tcp:HOST:PORT", flagName, value)
	}
	return endpoint{network: network, address: address}, nil
}

func run() error {
	listen := flag.String("listen", "", "unix:PATH or tcp:HOST:PORT to accept on")
	dial := flag.String("dial", "", "unix:PATH or tcp:HOST:PORT to dial for every accepted connection")
	certs := flag.String("certs", "", "directory made by --make-certs")
	noTLS := flag.Bool("no-tls", false, "plain TCP between the nodes")
	owner := flag.String("owner", "", "uid:gid to give the unix listener to, after it listens")
	makeCerts := flag.String("make-certs", "", "make a CA and a node certificate in this directory, and end")
	flag.Parse()
	if *makeCerts != "" {
		return makeCertificates(*makeCerts)
	}
	if (*certs == "") == !*noTLS {
		return errors.New("give either --certs DIR or --no-tls")
	}
	from, err := parseEndpoint("--listen", *listen)
	if err != nil {
		return err
	}
	to, err := parseEndpoint("--dial", *dial)
	if err != nil {
		return err
	}
	p := &proxy{dial: to, stop: make(chan struct{})}
	var serverTLS *tls.Config
	if !*noTLS {
		if serverTLS, p.clientTLS, err = loadTLS(*certs); err != nil {
			return err
		}
	}
	listener, err := listenAt(from, serverTLS, *owner)
	if err != nil {
		return err
	}
	address := from
	if from.network == "tcp" {
		address.address = listener.Addr().String()
	}
	ready, _ := json.Marshal(map[string]string{"listening": address.String()})
	fmt.Println(string(ready))

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go p.acceptLoop(listener)
	<-signals
	close(p.stop)
	listener.Close()
	if from.network == "unix" {
		os.RemoveAll(from.address)
	}
	return nil
}

// listenAt creates the unix socket as virt-handler does: as root, given to its owner only after it listens, so that
// for a moment it is connectable and not yet the owner's. A TCP listener with TLS does its handshakes lazily.
func listenAt(at endpoint, serverTLS *tls.Config, owner string) (net.Listener, error) {
	if at.network == "tcp" {
		if serverTLS != nil {
			return tls.Listen("tcp", at.address, serverTLS)
		}
		return net.Listen("tcp", at.address)
	}
	os.RemoveAll(at.address)
	if err := os.MkdirAll(filepath.Dir(at.address), 0o755); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", at.address)
	if err != nil || owner == "" {
		return listener, err
	}
	var uid, gid int
	if _, err := fmt.Sscanf(owner, "%d:%d", &uid, &gid); err != nil {
		return nil, fmt.Errorf("--owner %q: want UID:GID", owner)
	}
	if err := os.Chown(at.address, uid, gid); err != nil {
		return nil, err
	}
	return listener, nil
}
