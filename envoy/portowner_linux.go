package envoy

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
const tcpListen = "0A"

// portOwner names the process that listens on the port of address, as "nginx (pid 123)"; "" when it
// cannot be seen, as with another user's processes. It serves messages only.
func portOwner(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ""
	}
	sockets := map[string]bool{} // link targets of the file descriptors
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		addListeners(sockets, table, fmt.Sprintf(":%04X", n))
	}
	if len(sockets) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || !sockets[target] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err != nil {
			return "pid " + pid
		}
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}

// addListeners reads a table of proc_net_tcp(5): the second field is the local address with the port
// in hexadecimal behind the last colon, the fourth the state, the tenth the inode.
func addListeners(sockets map[string]bool, table, port string) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 9 && fields[3] == tcpListen && strings.HasSuffix(fields[1], port) {
			sockets["socket:["+fields[9]+"]"] = true
		}
	}
}
