package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// screenshotsVariable names the folder that pictures of the console are put into.
const screenshotsVariable = "WEIR_SCREENSHOTS"

// browserPage is a tab of a real Chromium that shows the console of a gateway.
type browserPage struct {
	t      *testing.T
	ctx    context.Context
	origin string

	mu sync.Mutex
	// trouble is what the page has complained of: errors of scripts, of the content security policy, of requests.
	trouble []string
	// foreign are addresses that it has asked outside of the console.
	foreign []string
	asked   int
	// lenient: requests may fail, because the test takes the gateway away.
	lenient bool
}

// newBrowserPage starts a Chromium of its own, which ends with the test. At its end the page must have had no trouble, and have asked
// nobody but the console.
func newBrowserPage(t *testing.T, origin string) *browserPage {
	t.Helper()
	path, err := chromium()
	must(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("lang", "en-GB"), chromedp.Env("LANGUAGE=en_GB"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &browserPage{t: t, ctx: ctx, origin: origin}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("Chromium (%s) does not start: %v", path, err)
	}
	must(t, chromedp.Listen(ctx, p.note))
	for _, enable := range []func() error{
		func() error { _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); return err },
		func() error { _, err := chromedp.Call(ctx, runtime.Enable, struct{}{}); return err },
		func() error { _, err := chromedp.Call(ctx, log.Enable, struct{}{}); return err },
	} {
		must(t, enable())
	}
	p.size(1440, 1000)
	p.theme("light")
	t.Cleanup(p.finish)
	return p
}

// chromium is the browser that the tests use.
func chromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("chromium is not installed, and the tests of the console need it: apt install chromium")
}

// note keeps what no page of the console may do.
func (p *browserPage) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		switch {
		case err != nil || u.Scheme != "data" && u.Scheme != "about" && u.Scheme+"://"+u.Host != p.origin:
			p.foreign = append(p.foreign, e.Request.URL)
		case u.Scheme == "http":
			p.asked++
		}
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		p.trouble = append(p.trouble, "exception: "+text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			for _, a := range e.Args {
				p.trouble = append(p.trouble, fmt.Sprintf("console: %s", a.Value))
			}
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning || strings.Contains(e.Entry.Text, "Content Security Policy") {
			if !p.lenient || e.Entry.Source != log.EntrySourceNetwork {
				p.trouble = append(p.trouble, "log: "+e.Entry.Text)
			}
		}
	}
}

func (p *browserPage) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.trouble {
		p.t.Errorf("the page had trouble: %s", s)
	}
	if len(p.foreign) > 0 {
		p.t.Errorf("the page asked others than the console: %v", p.foreign)
	}
	if p.asked == 0 {
		p.t.Error("no request of the page was seen: this test has looked at nothing")
	}
}

// expectTrouble takes back one complaint that the test has provoked.
func (p *browserPage) expectTrouble(text string) {
	p.t.Helper()
	harness.WaitFor(p.t, "the page to complain of "+text, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.trouble, func(s string) bool { return strings.Contains(s, text) })
		if i >= 0 {
			p.trouble = slices.Delete(p.trouble, i, i+1)
		}
		return i >= 0
	})
}

// do runs actions, which must succeed.
func (p *browserPage) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// size sets the window's, in CSS pixels.
func (p *browserPage) size(width, height int64) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500,
	})
	must(p.t, err)
}

// theme sets the system's preference, light or dark. Motion is reduced, so that a picture is of a state and not of a way there.
func (p *browserPage) theme(name string) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	must(p.t, err)
}

// open shows a place of the console: "requests?status=failed".
func (p *browserPage) open(place string) {
	p.t.Helper()
	p.do(chromedp.Navigate("about:blank"), chromedp.Navigate(p.origin+"/#/"+place))
}

// eval gives the value of an expression.
func evalPage[T any](p *browserPage, js string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// wait waits until an expression is true.
func (p *browserPage) wait(what, js string) {
	p.t.Helper()
	defer func() {
		if p.t.Failed() {
			if text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 4000)`)); err == nil {
				p.t.Logf("the page shows: %s", text)
			}
			p.shot("failed-" + strings.ReplaceAll(p.t.Name(), "/", "-"))
		}
	}()
	harness.WaitFor(p.t, what, func() bool { return evalPage[bool](p, "Boolean("+js+")") })
}

// shows waits until text is in the element.
func (p *browserPage) shows(selector, text string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%s shows %q", selector, text), fmt.Sprintf("[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%q))", selector, text))
}

// click clicks the first element that has the text.
func (p *browserPage) click(selector, text string) {
	p.t.Helper()
	p.shows(selector, text)
	evalPage[bool](p, fmt.Sprintf("([...document.querySelectorAll(%q)].find((e) => e.textContent.includes(%q)).click(), true)", selector, text))
}

// press presses keys one after the other: single characters, or those of the package kb.
func (p *browserPage) press(keys ...string) {
	p.t.Helper()
	for _, k := range keys {
		if k[0] > ' ' && k[0] < 0x7f {
			// As a keyboard does it: a page that takes the key for itself gets no character. KeyEvent sends the two apart.
			for _, event := range []input.DispatchKeyEventParams{{Type: input.DispatchKeyEventTypeKeyDown, Key: k, Text: k, UnmodifiedText: k}, {Type: input.DispatchKeyEventTypeKeyUp, Key: k}} {
				_, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, event)
				must(p.t, err)
			}
			continue
		}
		p.do(chromedp.KeyEvent(k))
	}
}

// focused describes what has the focus: its tag, its label and its text.
func (p *browserPage) focused() string {
	p.t.Helper()
	return evalPage[string](p, `(({tagName, id, ariaLabel, textContent}) => [tagName, id, ariaLabel, textContent.trim().slice(0, 60)].join('|'))(document.activeElement)`)
}

// tabTo presses Tab until what has the focus contains the text.
func (p *browserPage) tabTo(text string) {
	p.t.Helper()
	seen := []string{}
	for range 120 {
		p.press(kb.Tab)
		now := p.focused()
		if strings.Contains(now, text) {
			return
		}
		seen = append(seen, now)
	}
	p.t.Fatalf("Tab does not reach %q; it reaches %q", text, seen)
}

// shot puts a picture of the window into the folder of screenshots.
func (p *browserPage) shot(name string) {
	p.t.Helper()
	dir := os.Getenv(screenshotsVariable)
	if dir == "" {
		dir = filepath.Join("..", "..", "bin", "screenshots")
	}
	must(p.t, os.MkdirAll(dir, 0o755))
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	must(p.t, err)
	must(p.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
}
