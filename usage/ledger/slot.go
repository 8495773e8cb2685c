package ledger

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The files of a slot. Numbers have 16 digits, so that names sort as numbers.
//
//	lock                    locked (flock) while a process writes or repairs the slot
//	id                      name of the slot for ever and everywhere
//	entries-N.jsonl         a segment; N is the number of its first line, counted over the life of the slot
//	entries-N.jsonl.gz      a closed one
//	entries-N.rollup        sums of a closed one
//	intents-N.jsonl         a journal of requests that have not been entered yet
//	shipped                 how far the slot has been sent elsewhere
const (
	lockFile    = "lock"
	idFile      = "id"
	shippedFile = "shipped"
	ledgerDir   = "ledger"
	tempSuffix  = ".tmp"

	entriesPrefix = "entries-"
	intentsPrefix = "intents-"
	plainSuffix   = ".jsonl"
	gzipSuffix    = ".jsonl.gz"
	rollupSuffix  = ".rollup"

	// maxSlots is how many processes may share a state folder.
	maxSlots = 1024

	dirMode, fileMode = 0o700, 0o600
)

// DefaultDir is the state folder when none is given: $WEIR_STATE_DIR, else weir in $XDG_STATE_HOME, else
// ~/.local/state/weir. The function env is os.Getenv or the like.
func DefaultDir(env func(string) string) (string, error) {
	if dir := env("WEIR_STATE_DIR"); dir != "" {
		return dir, nil
	}
	// The specification of XDG_STATE_HOME says that a relative path is to be ignored.
	if dir := env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "weir"), nil
	}
	if home := env("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "weir"), nil
	}
	return "", errors.New("there is no place for the ledger: neither WEIR_STATE_DIR nor XDG_STATE_HOME nor HOME is set; set WEIR_STATE_DIR or use --state-dir")
}

func segmentPath(slot string, base uint64, suffix string) string {
	return filepath.Join(slot, fmt.Sprintf("%s%016d%s", entriesPrefix, base, suffix))
}

func journalPath(slot string, n uint64) string {
	return filepath.Join(slot, fmt.Sprintf("%s%016d%s", intentsPrefix, n, plainSuffix))
}

// segmentFiles says which files of a segment there are.
type segmentFiles struct {
	base                uint64
	plain, gzip, rollup bool
}

// slotFiles are the files of a slot by kind, in order.
type slotFiles struct {
	segments []segmentFiles
	journals []uint64
	temps    []string // what was left behind by an interruption
}

func listSlot(slot string) (slotFiles, error) {
	var out slotFiles
	names, err := os.ReadDir(slot)
	if err != nil {
		return out, err
	}
	for _, f := range names { // sorted by name, so by number
		name := f.Name()
		if strings.HasSuffix(name, tempSuffix) {
			out.temps = append(out.temps, name)
			continue
		}
		if n, suffix, ok := parseName(name, intentsPrefix); ok && suffix == plainSuffix {
			out.journals = append(out.journals, n)
			continue
		}
		n, suffix, ok := parseName(name, entriesPrefix)
		if !ok {
			continue
		}
		if len(out.segments) == 0 || out.segments[len(out.segments)-1].base != n {
			out.segments = append(out.segments, segmentFiles{base: n})
		}
		s := &out.segments[len(out.segments)-1]
		switch suffix {
		case plainSuffix:
			s.plain = true
		case gzipSuffix:
			s.gzip = true
		case rollupSuffix:
			s.rollup = true
		}
	}
	out.segments = slices.DeleteFunc(out.segments, func(s segmentFiles) bool {
		if s.plain || s.gzip {
			return false
		}
		// A roll-up without its segment says nothing any more: retention was interrupted between the two.
		out.temps = append(out.temps, filepath.Base(segmentPath(slot, s.base, rollupSuffix)))
		return true
	})
	return out, nil
}

func parseName(name, prefix string) (n uint64, suffix string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || len(rest) < 16 {
		return 0, "", false
	}
	n, err := strconv.ParseUint(rest[:16], 10, 64)
	return n, rest[16:], err == nil
}

// slotDirs are the slots of a state folder that exist, in order.
func slotDirs(state string) ([]string, error) {
	root := filepath.Join(state, ledgerDir)
	names, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, f := range names {
		if n, err := strconv.Atoi(f.Name()); err == nil && f.IsDir() && n >= 0 && strconv.Itoa(n) == f.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	dirs := make([]string, len(numbers))
	for i, n := range numbers {
		dirs[i] = filepath.Join(root, strconv.Itoa(n))
	}
	return dirs, nil
}

// slotLock is a slot that this process holds.
type slotLock struct {
	dir  string
	file *os.File
}

// lockSlot locks a slot, which it makes if need be. A slot that is in use gives nil and no error.
func lockSlot(dir string) (*slotLock, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	// The kernel lets go of the lock when the process dies, however it dies.
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot lock %s: %w", f.Name(), err)
	}
	return &slotLock{dir: dir, file: f}, nil
}

func (s *slotLock) release() { s.file.Close() }

// intact reports whether the lock's file is still the one at its path.
func (s *slotLock) intact() bool {
	a, errA := s.file.Stat()
	b, errB := os.Stat(filepath.Join(s.dir, lockFile))
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// lockFreeSlot locks the first slot of a state folder that nobody uses.
func lockFreeSlot(state string) (*slotLock, error) {
	root := filepath.Join(state, ledgerDir)
	for n := range maxSlots {
		s, err := lockSlot(filepath.Join(root, strconv.Itoa(n)))
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, fmt.Errorf("all %d slots of %s are in use; give some of the processes another --state-dir", maxSlots, root)
}

// slotID returns the name of a slot, which gets one the first time.
func slotID(dir string) (string, error) {
	path := filepath.Join(dir, idFile)
	data, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(data)); err == nil && validID(id) {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return RenewID(dir)
}

// RenewID gives a slot that this process holds another ID, which is durable when it returns.
func RenewID(dir string) (string, error) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:])
	return id, writeFile(filepath.Join(dir, idFile), []byte(id+"\n"))
}

func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16
}

// Shipped is how far a slot has been sent elsewhere.
type Shipped struct {
	// Slot is the ID of the slot as it is known there.
	Slot string `json:"slot"`
	// Next is the number of the first line that has not been sent.
	Next uint64 `json:"next"`
	// Fresh: nothing has been sent under this ID, and Next is where to begin.
	Fresh bool `json:"fresh,omitempty"`
}

// ReadShipped returns how far a slot has been sent, and whether it has ever been.
func ReadShipped(slot string) (Shipped, bool) {
	var s Shipped
	data, err := os.ReadFile(filepath.Join(slot, shippedFile))
	if err != nil || json.Unmarshal(data, &s) != nil || !validID(s.Slot) {
		return Shipped{}, false
	}
	return s, true
}

// WriteShipped notes how far a slot has been sent. Retention says so when it deletes what has not been.
func WriteShipped(slot string, s Shipped) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(slot, shippedFile), append(data, '\n'))
}

// writeFile replaces a file at once: a reader sees the old one or the new one.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return finish(f, path, err)
}

// finish makes a temporary file durable and gives it its name, or removes it.
func finish(f *os.File, path string, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names of a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}
