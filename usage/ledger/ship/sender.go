package ship

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/usage/ledger"
)

// sender sends one slot.
type sender struct {
	shipper *Shipper
	dir, id string
	// opened is the number of the first line that did not exist when this process took the slot.
	opened uint64
	// renew gives the slot another ID.
	renew func() (string, error)

	cursor *ledger.Cursor
	// known: stored is what Redis is thought to have; "" for nothing.
	known  bool
	stored string
	// confirmed is how far Redis has been seen to have this folder's lines; valid once seen is set.
	confirmed uint64
	seen      bool
}

// mark is what Redis has of a slot: the number of the next line, and a print of the one before it. The print tells
// whether that line is this folder's.
func mark(next uint64, last []byte) string {
	if last == nil {
		return strconv.FormatUint(next, 10)
	}
	sum := sha256.Sum256(last)
	return strconv.FormatUint(next, 10) + ":" + hex.EncodeToString(sum[:8])
}

// send sends the lines below end.
func (s *sender) send(ctx context.Context, end uint64) error {
	for {
		for !s.known {
			if err := s.locate(ctx, end); err != nil {
				return err
			}
		}
		lines, err := s.cursor.Read(end, s.shipper.opts.Batch)
		if err != nil || len(lines) == 0 && s.stored != "" {
			return err
		}
		ok, err := s.add(ctx, lines)
		s.known = ok // after an error nobody knows whether Redis has done it
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		s.shipper.shipped.Add(int64(len(lines)))
		if err := s.confirm(s.cursor.Next()); err != nil {
			return err
		}
	}
}

// confirm notes how far Redis has the slot.
func (s *sender) confirm(next uint64) error {
	s.confirmed, s.seen = next, true
	now := ledger.Shipped{Slot: s.id, Next: next}
	if was, _ := ledger.ReadShipped(s.dir); was == now {
		return nil
	}
	return ledger.WriteShipped(s.dir, now)
}

// add runs the script. It returns false if Redis has something else than was thought.
func (s *sender) add(ctx context.Context, lines []ledger.Line) (bool, error) {
	var last []byte
	if n := len(lines); n > 0 {
		last = lines[n-1].JSON
	}
	to := mark(s.cursor.Next(), last)
	args := make([]any, 0, 3+2*len(lines))
	args = append(args, s.id, s.stored, to)
	for _, l := range lines {
		args = append(args, l.Seq, l.JSON)
	}
	ctx, cancel := context.WithTimeout(ctx, s.shipper.opts.Timeout)
	defer cancel()
	is, err := s.shipper.script.Run(ctx, s.shipper.client, []string{s.shipper.stream, s.shipper.numbers}, args...).Text()
	if err != nil {
		return false, fmt.Errorf("cannot add to %s: %w", s.shipper.stream, err)
	}
	if is == "ok" || is == to { // the latter: the client asked twice, and only the first answer was lost
		s.stored = to
		return true, nil
	}
	return false, nil
}

// changed reports whether Redis has something else than was thought.
func (s *sender) changed(ctx context.Context) (bool, error) {
	stored, err := s.number(ctx)
	return stored != s.stored, err
}

// locate finds out where to go on.
func (s *sender) locate(ctx context.Context, end uint64) error {
	stored, err := s.number(ctx)
	if err != nil {
		return err
	}
	oldest, err := ledger.Oldest(s.dir, end)
	if err != nil {
		return err
	}
	var from uint64
	if stored == "" {
		if from, err = s.begin(ctx, oldest); err != nil {
			return err
		}
	} else {
		number, _, _ := strings.Cut(stored, ":")
		if from, err = strconv.ParseUint(number, 10, 64); err != nil {
			return fmt.Errorf("%s has %q for the slot %s, which is no number: remove that field, and what is missing is sent again", s.shipper.numbers, stored, s.id)
		}
		mine, err := s.isMine(from, end, stored)
		if err != nil {
			return err
		}
		if !mine {
			return s.split(end)
		}
		if from < oldest {
			s.shipper.opts.Log.Error("entries that Redis lacks are not in the folder any more", "folder", s.dir, "entries", oldest-from)
		}
		if err := s.confirm(from); err != nil {
			return err
		}
	}
	s.close()
	s.cursor, s.known, s.stored = ledger.NewCursor(s.dir, max(from, oldest)), true, stored
	return nil
}

// isMine reports whether the lines that Redis has under the slot's ID came from this folder as it is now. They did
// not if the folder was set back to an older state, or copied and the copy is in use.
func (s *sender) isMine(from, end uint64, stored string) (bool, error) {
	if from > end {
		return false, nil
	}
	if from == 0 || !strings.Contains(stored, ":") {
		return true, nil
	}
	c := ledger.NewCursor(s.dir, from-1)
	defer c.Close()
	lines, err := c.Read(from, 1)
	if err != nil || len(lines) == 0 { // it is gone; then nothing says that it was another one
		return err == nil, err
	}
	return mark(from, lines[0].JSON) == stored, nil
}

// split gives the slot another ID, and begins with what has not been sent under the old one.
func (s *sender) split(end uint64) error {
	at := min(s.opened, end)
	if done, ever := ledger.ReadShipped(s.dir); s.seen {
		at = s.confirmed
	} else if ever && done.Slot == s.id {
		at = min(at, done.Next)
	}
	id, err := s.renew()
	if err != nil {
		return err
	}
	s.shipper.opts.Log.Warn("Redis has entries of this slot that the folder lacks: it was set back or copied; the slot goes on under another name", "folder", s.dir)
	if err := ledger.WriteShipped(s.dir, ledger.Shipped{Slot: id, Next: at, Fresh: true}); err != nil {
		return err
	}
	s.id, s.stored, s.seen = id, "", false
	return nil
}

// close lets go of the file that is read.
func (s *sender) close() {
	if s.cursor != nil {
		s.cursor.Close()
	}
}

func (s *sender) number(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.shipper.opts.Timeout)
	defer cancel()
	n, err := s.shipper.client.HGet(ctx, s.shipper.numbers, s.id).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("cannot read %s: %w", s.shipper.numbers, err)
	}
	return n, nil
}

// begin says where to begin when Redis has no number of the slot.
func (s *sender) begin(ctx context.Context, oldest uint64) (uint64, error) {
	done, ever := ledger.ReadShipped(s.dir)
	switch {
	case !ever || done.Slot != s.id:
		// Nothing has been sent under this ID. That is noted before the first line is, so that a number which is
		// missing later means that Redis lost it.
		return oldest, ledger.WriteShipped(s.dir, ledger.Shipped{Slot: s.id, Next: oldest, Fresh: true})
	case done.Fresh:
		return done.Next, nil
	}
	// Redis was emptied, or it only lost the number, for example by evicting it. The stream knows.
	last, found, err := s.lastInStream(ctx)
	if err != nil {
		return 0, err
	}
	if found {
		return last + 1, nil
	}
	s.shipper.opts.Log.Warn("Redis has lost the shared ledger; what this folder still has is sent again", "folder", s.dir)
	return oldest, nil
}

// lastInStream finds the last line of the slot in the stream.
func (s *sender) lastInStream(ctx context.Context) (seq uint64, found bool, err error) {
	const page = 1000
	to := "+"
	for {
		items, err := s.page(ctx, to, page)
		if err != nil {
			return 0, false, err
		}
		for _, item := range items {
			if item.Values[fieldSlot] != s.id {
				continue
			}
			text, _ := item.Values[fieldSeq].(string)
			if seq, err := strconv.ParseUint(text, 10, 64); err == nil {
				return seq, true, nil
			}
		}
		if len(items) < page {
			return 0, false, nil
		}
		to = "(" + items[len(items)-1].ID
	}
}

func (s *sender) page(ctx context.Context, to string, n int64) ([]redis.XMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, s.shipper.opts.Timeout)
	defer cancel()
	items, err := s.shipper.client.XRevRangeN(ctx, s.shipper.stream, to, "-", n).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", s.shipper.stream, err)
	}
	return items, nil
}
