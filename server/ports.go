package server

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ports are the node's listeners.
type ports struct{ client, peer, http net.Listener }

// PortError says that a port could not be opened. Field is the name of the flag
// without dashes in front.
type PortError struct {
	Field, Addr string
	Err         error
}

func (e *PortError) Error() string {
	if errors.Is(e.Err, syscall.EADDRINUSE) {
		return fmt.Sprintf("%s is in use by another process: stop that one, or choose another address with --%s", e.Addr, e.Field)
	}
	return fmt.Sprintf("--%s: %v", e.Field, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

func listen(cfg Config) (*ports, error) {
	p := &ports{}
	for _, l := range []struct {
		field, addr string
		to          *net.Listener
	}{
		{"listen-client", cfg.ListenClient, &p.client},
		{"listen-peer", cfg.ListenPeer, &p.peer},
		{"listen-http", cfg.ListenHTTP, &p.http},
	} {
		ln, err := cfg.Listen("tcp", l.addr)
		if err != nil {
			p.closeAll()
			return nil, &PortError{Field: l.field, Addr: l.addr, Err: err}
		}
		*l.to = ln
	}
	return p, nil
}

func (p *ports) closeAll() {
	for _, ln := range []net.Listener{p.client, p.peer, p.http} {
		if ln != nil {
			ln.Close()
		}
	}
}

// advertise fills in addresses that were not given: where the node listens.
func (p *ports) advertise(cfg Config) Config {
	cfg.AdvertiseClient = or(cfg.AdvertiseClient, p.client.Addr().String())
	cfg.AdvertisePeer = or(cfg.AdvertisePeer, p.peer.Addr().String())
	cfg.AdvertiseHTTP = or(cfg.AdvertiseHTTP, p.http.Addr().String())
	return cfg
}
