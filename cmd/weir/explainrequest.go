package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/xds/source"
)

// exitRefused is the exit code of weir explain request for a request that would be refused.
const exitRefused = 3

// explainOptions are the flags of weir explain request.
type explainOptions struct {
	admin   adminClient
	file    string
	config  string
	method  string
	path    string
	headers []string
	keyEnv  string
	keyFile string
	output  string
	named   explainBody // consumer, tenant, source and gateway
}

func explainRequestCommand() *cobra.Command {
	var o explainOptions
	c := &cobra.Command{
		Use:   "request -f FILE",
		Short: "Explain what would become of a request, without sending it",
		Long: `Explain what would become of a request: who calls, which rule serves it, what limits and budgets have left, which backend is
asked and what the caller gets. Nothing is sent, counted or reserved.

FILE is the JSON body of the request, or an object with "path" and, as needed, "method", "headers", "body", "consumer", "tenant",
"source" and "gateway"; - is standard input. Flags win over the file. The running gateway at --admin is asked, or, with
--config, a folder of objects: then nothing is known of what has been used, nor of how backends are.

The exit code is 0 when the request would be served, 3 when it would be refused, and 1 when that cannot be told.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context(), c.InOrStdin(), c.OutOrStdout()) },
	}
	f := c.Flags()
	f.StringVarP(&o.file, "file", "f", "", "file with the request; - is standard input")
	f.StringVar(&o.config, "config", "", "folder (or file) with Weir objects to explain by, instead of a running gateway")
	f.StringVar(&o.method, "method", "", "method of the request (default: POST with a body, else GET)")
	f.StringVar(&o.path, "path", "", "path of the request, with its query (default: /v1/chat/completions)")
	f.StringArrayVar(&o.headers, "header", nil, `header of the request, as "name: value"; may come several times`)
	f.StringVar(&o.keyEnv, "key-env", "", "environment variable with the caller's API key or token")
	f.StringVar(&o.keyFile, "key-file", "", "file with the caller's API key or token")
	f.StringVar(&o.named.Consumer, "consumer", "", "Consumer that calls, as namespace/name, instead of a key")
	f.StringVar(&o.named.Tenant, "tenant", "", "tenant that calls, instead of a key, or of the Consumer's")
	f.StringVar(&o.named.Source, "source", "", "IP address that the caller has, for keys that are bound to networks")
	f.StringVar(&o.named.Gateway, "gateway", "", "LLMGateway that the request comes in by, as namespace/name, where there are several")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	o.admin.bind(f)
	return c
}

func (o *explainOptions) run(ctx context.Context, in io.Reader, out io.Writer) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: use text or json", o.output)
	}
	if o.file == "" {
		return errors.New("-f is missing: give the file with the request, or - for standard input")
	}
	raw, err := readInput(o.file, in)
	if err != nil {
		return err
	}
	body, err := o.body(raw)
	if err != nil {
		return err
	}
	x, err := o.ask(ctx, body)
	if err != nil {
		return err
	}
	if o.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(x)
	} else {
		err = printExplanation(out, x)
	}
	if err == nil && !x.Outcome.Served {
		return quietError{exitRefused}
	}
	return err
}

func readInput(name string, in io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxExplained+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		if name == "-" {
			return nil, errors.New("standard input is empty: it holds no request to explain")
		}
		return nil, fmt.Errorf("%s: the file is empty: it holds no request to explain", name)
	}
	if len(raw) > maxExplained {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxExplained)
	}
	return raw, nil
}

// body puts the file and the flags together.
func (o *explainOptions) body(raw []byte) (*explainBody, error) {
	b := &explainBody{}
	if isWhole(raw) {
		var err error
		if b, err = parseExplainBody(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
	} else {
		b.BodyBase64 = raw
	}
	n := &o.named
	b.Method, b.Path = cmp.Or(o.method, b.Method), cmp.Or(o.path, b.Path, "/v1/chat/completions")
	b.Consumer, b.Tenant = cmp.Or(n.Consumer, b.Consumer), cmp.Or(n.Tenant, b.Tenant)
	b.Source, b.Gateway = cmp.Or(n.Source, b.Source), cmp.Or(n.Gateway, b.Gateway)
	if b.Headers == nil {
		b.Headers = map[string]headerValues{}
	}
	given := map[string]headerValues{}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, errors.New(`--header: write "name: value"`) // it may be a secret
		}
		name = strings.ToLower(strings.TrimSpace(name))
		given[name] = append(given[name], strings.TrimSpace(value))
	}
	key, err := o.key()
	if err != nil {
		return nil, err
	}
	if key != "" {
		given["authorization"] = append(given["authorization"], "Bearer "+key)
	}
	for name, values := range given {
		for had := range b.Headers {
			if strings.EqualFold(had, name) {
				delete(b.Headers, had)
			}
		}
		b.Headers[name] = values
	}
	if _, err := b.request(); err != nil {
		return nil, err
	}
	return b, nil
}

// isWhole says whether a file is more than a body: an object with a path.
func isWhole(raw []byte) bool {
	var whole struct {
		Path *string `json:"path"`
	}
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Unmarshal(trimmed, &whole) == nil && whole.Path != nil
}

// key is the caller's, "" where none is given.
func (o *explainOptions) key() (string, error) {
	var key, from string
	switch {
	case o.keyEnv != "" && o.keyFile != "":
		return "", errors.New("give --key-env or --key-file, not both")
	case o.keyEnv != "":
		key, from = os.Getenv(o.keyEnv), "the environment variable "+o.keyEnv
	case o.keyFile != "":
		raw, err := os.ReadFile(o.keyFile)
		if err != nil {
			return "", fmt.Errorf("--key-file: %w", err)
		}
		key, from = string(raw), o.keyFile
	default:
		return "", nil
	}
	if key = strings.TrimSpace(key); key == "" {
		return "", fmt.Errorf("%s is empty: there is no key in it", from)
	}
	if o.named.Consumer != "" || o.named.Tenant != "" {
		return "", errors.New("give a key, or --consumer and --tenant, not both")
	}
	return key, nil
}

// ask asks the running gateway, or explains by a folder.
func (o *explainOptions) ask(ctx context.Context, b *explainBody) (*extproc.Explanation, error) {
	if o.config == "" {
		if err := o.admin.open(); err != nil {
			return nil, err
		}
		var x extproc.Explanation
		if err := o.admin.post(ctx, "/api/explain", b, &x); err != nil {
			return nil, err
		}
		return &x, nil
	}
	req, err := b.request()
	if err != nil {
		return nil, err
	}
	folder, err := readFolder(o.config)
	if err != nil {
		return nil, err
	}
	if folder.version == nil {
		var wrong []string
		for _, p := range folder.problems {
			if p.Severity == source.Error {
				wrong = append(wrong, p.String())
			}
		}
		return nil, fmt.Errorf("%s cannot be served as it is:\n%s", o.config, strings.Join(wrong, "\n"))
	}
	if err := knownGateway(folder.objs, req.Gateway); err != nil {
		return nil, err
	}
	return extproc.ExplainTable(ctx, folder.version.Table, folder.dialects, time.Now, req)
}
