package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/kvd-io/kvd/test/cluster"
)

// Requests of pseudo terminals (see pty(7) and ioctl_tty(2)).
const (
	ioctlPTYNumber = 0x80045430 // TIOCGPTN
	ioctlPTYLock   = 0x40045431 // TIOCSPTLCK
)

// openTerminal returns both ends of a pseudo terminal.
func openTerminal(t *testing.T) (outside, inside *os.File) {
	t.Helper()
	outside, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	t.Cleanup(func() { outside.Close() })
	var number, unlocked int32
	for request, arg := range map[uintptr]*int32{ioctlPTYNumber: &number, ioctlPTYLock: &unlocked} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, outside.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Skipf("needs pseudo terminals: %v", errno)
		}
	}
	inside, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	t.Cleanup(func() { inside.Close() })
	return outside, inside
}

// onTerminal calls kvctl, which must succeed, on a terminal and returns what is
// shown there.
func (k *kvctl) onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	outside, inside := openTerminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), kvctlWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.binary, args...)
	cmd.Env = append(os.Environ(), k.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inside, inside, inside
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inside.Close() // so that reading ends with the program
	var shown strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := outside.Read(buf)
		shown.Write(buf[:n])
		if err != nil { // EIO is how a terminal ends
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("kvctl %q on a terminal: %v\n%s", args, err, shown.String())
	}
	return shown.String()
}

// testTerminal: what a person sees and a pipe does not get.
func testTerminal(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	k.ok(t, "put", "tty/k", "v")
	if got := k.onTerminal(t, "get", "tty/k"); got != "v\r\n" {
		t.Errorf("get on a terminal shows %q, want the value and a newline", got)
	}
	begin := time.Now()
	shown := k.onTerminal(t, "bench", "put", "--duration", "700ms", "--clients", "2")
	if !strings.Contains(shown, "ops/s") || !strings.Contains(shown, "[###") {
		t.Errorf("bench on a terminal shows no progress bar within %v: %q", time.Since(begin), shown)
	}
}
