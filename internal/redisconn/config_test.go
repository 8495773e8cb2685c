package redisconn_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/redisconn"
)

func TestValidate(t *testing.T) {
	one := []string{"redis.example.com:6379"}
	two := []string{"a:1", "b:2"}
	ca, cert, key := certificates(t)
	for name, c := range map[string]struct {
		cfg  redisconn.Config
		want []string // parts of the error; none: it is valid
	}{
		"standalone":        {redisconn.Config{Addresses: one}, nil},
		"IPv6":              {redisconn.Config{Addresses: []string{"[::1]:6379"}}, nil},
		"sentinel":          {redisconn.Config{Mode: redisconn.Sentinel, MasterName: "m", Addresses: two, SentinelPassword: "p"}, nil},
		"cluster":           {redisconn.Config{Mode: redisconn.Cluster, Addresses: two}, nil},
		"tls":               {redisconn.Config{Addresses: one, TLS: &redisconn.TLS{CA: ca, Certificate: cert, PrivateKey: redisconn.Secret(key)}}, nil},
		"nothing":           {redisconn.Config{}, []string{"no address of Redis"}},
		"two for one":       {redisconn.Config{Addresses: two}, []string{"has one address, but 2"}},
		"mode":              {redisconn.Config{Mode: "Ring", Addresses: one}, []string{`no Redis mode "Ring"`}},
		"no master":         {redisconn.Config{Mode: redisconn.Sentinel, Addresses: one}, []string{"needs a master name"}},
		"master":            {redisconn.Config{MasterName: "m", Addresses: one}, []string{`a master name ("m") belongs to the Redis mode Sentinel`}},
		"sentinel password": {redisconn.Config{Mode: redisconn.Cluster, Addresses: one, SentinelPassword: "hunter2"}, []string{"for sentinels belongs to"}},
		"cluster database":  {redisconn.Config{Mode: redisconn.Cluster, Addresses: one, Database: 3}, []string{"no database but 0"}},
		"database":          {redisconn.Config{Addresses: one, Database: -1}, []string{"database -1 does not exist"}},
		"no port":           {redisconn.Config{Addresses: []string{"redis"}}, []string{`"redis" cannot be used`, "not host:port"}},
		"port":              {redisconn.Config{Addresses: []string{"redis:99999"}}, []string{`"99999" is not a number from 1 to 65535`}},
		"URL":               {redisconn.Config{Addresses: []string{"redis://u:p@h:1"}}, []string{"cannot be used"}},
		"no host":           {redisconn.Config{Addresses: []string{":6379"}}, []string{"host is empty"}},
		"user":              {redisconn.Config{Addresses: one, Username: "weir"}, []string{`user "weir" has no password`}},
		"sentinel user":     {redisconn.Config{Mode: redisconn.Sentinel, MasterName: "m", Addresses: one, SentinelUsername: "s"}, []string{`user "s" of the sentinels`}},
		"timeout":           {redisconn.Config{Addresses: one, Timeout: -time.Second}, []string{"timeout -1s is out of range"}},
		"pool":              {redisconn.Config{Addresses: one, PoolSize: -1}, []string{"pool of -1"}},
		"client name":       {redisconn.Config{Addresses: one, ClientName: "a b"}, []string{`client name "a b"`}},
		"CA":                {redisconn.Config{Addresses: one, TLS: &redisconn.TLS{CA: []byte("x")}}, []string{"hold no certificate in PEM"}},
		"half a pair":       {redisconn.Config{Addresses: one, TLS: &redisconn.TLS{Certificate: cert}}, []string{"belong together"}},
		"broken pair":       {redisconn.Config{Addresses: one, TLS: &redisconn.TLS{Certificate: cert, PrivateKey: "hunter2"}}, []string{"cannot be used with its private key"}},
		"everything at once": {
			redisconn.Config{Mode: redisconn.Cluster, MasterName: "m", Database: 5000, Timeout: time.Hour},
			[]string{"no database but 0", "a master name", "no address", "5000 does not exist", "timeout 1h0m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.cfg.Validate()
			if _, openErr := redisconn.Open(c.cfg, redisconn.Options{}); (err == nil) != (openErr == nil) {
				t.Errorf("Validate says %v, Open says %v", err, openErr)
			}
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q shows a secret", err)
			}
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c := redisconn.Config{
		Addresses: []string{"h:1"}, Username: "u", Password: "hunter2", SentinelPassword: "hunter2",
		TLS: &redisconn.TLS{PrivateKey: "hunter2"},
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", c, "password", c.Password, "tls", *c.TLS)
	out := fmt.Sprintf("%v %+v %#v %s %q %#v", c, c, c, c.Password, c.Password, *c.TLS) + string(text) + log.String()
	if strings.Contains(out, "hunter2") {
		t.Errorf("a secret is printed: %s", out)
	}
	if !strings.Contains(out, "(hidden)") {
		t.Errorf("nothing says that there is a secret: %s", out)
	}
}

func TestEqual(t *testing.T) {
	base := func() redisconn.Config {
		return redisconn.Config{Addresses: []string{"a:1"}, Password: "p", TLS: &redisconn.TLS{ServerName: "n", CA: []byte("c")}}
	}
	same := base()
	same.Mode = redisconn.Standalone
	if !base().Equal(same) {
		t.Error("the default mode is not the same as Standalone")
	}
	for name, change := range map[string]func(*redisconn.Config){
		"address":     func(c *redisconn.Config) { c.Addresses[0] = "b:1" },
		"addresses":   func(c *redisconn.Config) { c.Addresses = append(c.Addresses, "b:1") },
		"mode":        func(c *redisconn.Config) { c.Mode = redisconn.Cluster },
		"master":      func(c *redisconn.Config) { c.MasterName = "m" },
		"database":    func(c *redisconn.Config) { c.Database = 1 },
		"user":        func(c *redisconn.Config) { c.Username = "u" },
		"password":    func(c *redisconn.Config) { c.Password = "q" },
		"sentinel":    func(c *redisconn.Config) { c.SentinelPassword = "q" },
		"no TLS":      func(c *redisconn.Config) { c.TLS = nil },
		"server name": func(c *redisconn.Config) { c.TLS.ServerName = "o" },
		"CA":          func(c *redisconn.Config) { c.TLS.CA = []byte("d") },
		"key":         func(c *redisconn.Config) { c.TLS.PrivateKey = "k" },
		"timeout":     func(c *redisconn.Config) { c.Timeout = 1 },
		"pool":        func(c *redisconn.Config) { c.PoolSize = 1 },
		"name":        func(c *redisconn.Config) { c.ClientName = "x" },
	} {
		c := base()
		change(&c)
		if base().Equal(c) {
			t.Errorf("%s makes no difference", name)
		}
	}
}
