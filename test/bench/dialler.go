package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A connection is found within so many looks: the kernel's list of them changes
// while it is read.
const (
	diallerLooks = 5
	diallerPause = 2 * time.Millisecond
)

// dialler returns the name of the node that has made a connection over loopback
// to this process: the one whose process holds the socket at the other end.
func (ns nodes) dialler(conn net.Conn) (name string, err error) {
	for range diallerLooks {
		var inode string
		if inode, err = peerSocket(conn); err == nil {
			for _, n := range ns {
				if holdsSocket(n.pid.Load(), inode) {
					return n.name, nil
				}
			}
			err = fmt.Errorf("no node holds socket %s", inode)
		}
		time.Sleep(diallerPause)
	}
	return "", fmt.Errorf("tell who dialled from %s: %w", conn.RemoteAddr(), err)
}

// peerSocket returns the inode of the socket at the other end of a connection.
func peerSocket(conn net.Conn) (string, error) {
	local, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return "", err
	}
	remote, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return "", err
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	const localField, remoteField, inodeField = 1, 2, 9
	want := [2]string{procAddr(local), procAddr(remote)}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > inodeField && f[localField] == want[0] && f[remoteField] == want[1] {
			return f[inodeField], nil
		}
	}
	return "", fmt.Errorf("no socket from %s to %s", local, remote)
}

// procAddr writes an IPv4 address as /proc/net/tcp does: the word in native
// order.
func procAddr(a netip.AddrPort) string {
	ip := a.Addr().Unmap().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port())
}

func holdsSocket(pid int64, inode string) bool {
	if pid == 0 {
		return false
	}
	dir := filepath.Join("/proc", strconv.FormatInt(pid, 10), "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
