package canon

import "github.com/weir-dev/weir/adapters/jsonx"

// Emitter sends the events of a StreamDecoder without allocating: they share one Event, and their texts share their bytes with what
// they were read from. It also knows the event of a provider that is the one before it with another text, so that the decoder need
// not read it again:
//
//	if d.out.Again(data) {
//		return
//	}
//	... // check data, read it, send its events
//	d.out.Read(data)
//
// A decoder whose provider's events always differ in more, DashScope's say, leaves Again and Read out. The zero value is ready once To
// is set.
type Emitter struct {
	To func(*Event) // the receiver of the call under way

	ev      Event
	scratch []byte // texts with their escapes resolved

	sent int         // events since Read
	text jsonx.Value // the text of the last one, where all else that was read of the provider's event is sure to be the same the next time
	last jsonx.Template
}

// Send sends an event.
func (e *Emitter) Send(ev Event) {
	e.text = nil
	e.send(ev)
}

// SendText sends an event whose Text is a string of the provider's event, unless that is empty or no string. Sending it must be all
// that depends on the string, and nothing must change by it that is not the same after a second time.
func (e *Emitter) SendText(ev Event, text jsonx.Value) {
	if text.Kind() != jsonx.String || len(text) == len(`""`) {
		return
	}
	e.text = text
	ev.Text = text.Lend(&e.scratch)
	e.send(ev)
}

func (e *Emitter) send(ev Event) {
	e.sent++
	e.ev = ev
	e.To(&e.ev)
}

// Read notes that the events since the last Read are what data, the JSON text of a provider's event, made. It must be called for every
// event that changed the decoder, except where Again was true.
func (e *Emitter) Read(data []byte) {
	if e.sent == 1 && e.text != nil {
		e.last.Learn(data, e.text)
	} else {
		e.last.Forget()
	}
	e.sent, e.text = 0, nil
}

// Again says whether data is the text that was read last but for the text of its only event; that event is sent then.
func (e *Emitter) Again(data []byte) bool {
	text, ok := e.last.Match(data)
	if ok {
		e.ev.Text = text.Lend(&e.scratch)
		e.To(&e.ev)
	}
	return ok
}
