package compile

import (
	"reflect"
	"strconv"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/xds/source"
)

// Settings are what the gateways say about the process itself: where it counts, what it keeps, what else it serves. All gateways
// of a configuration are served by one process, so they must agree.
type Settings struct {
	// Shared is where replicas count together; nil where each counts for itself.
	Shared *Shared
	// Currency that every amount of money is in.
	Currency string
	// Retention of ledger entries.
	Retention time.Duration
	// ShipLedger sends ledger entries to the shared state.
	ShipLedger bool
	// StoredKeys takes API keys from the shared state.
	StoredKeys bool
	// MaxFailedLogins per minute from one address; 0 is no limit.
	MaxFailedLogins int
	// Telemetry says what is shown of requests.
	Telemetry Telemetry
	// Authz is where the external authorization protocol is served; nil where it is not.
	Authz *authz.Config
}

// Telemetry says what is shown of requests. What it says of the text of requests is in the table.
type Telemetry struct {
	// Sampling is the share of traces begun here that are exported, 0 to 1; negative where the process decides.
	Sampling float64
	// KeepFailed and KeepSlower, where that is above zero, export traces that were not sampled.
	KeepFailed bool
	KeepSlower time.Duration
	// AccessLog writes a line for each request.
	AccessLog bool
}

// Shared is a Redis and what stands before every key there.
type Shared struct {
	Redis     redisconn.Config
	KeyPrefix string
}

// Equal says whether both are one place; nil is none.
func (s *Shared) Equal(other *Shared) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.KeyPrefix == other.KeyPrefix && s.Redis.Equal(other.Redis)
}

// settings compiles Settings from every gateway.
func (c *compiler) settings() {
	out := &c.out.Settings
	for i, g := range c.objs.Gateways {
		ref := source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}
		first := c.objs.Gateways[0]
		same := func(field string, a, b any) bool {
			if i == 0 || reflect.DeepEqual(a, b) {
				return true
			}
			c.refusef(ref, field, source.ReasonConflict, "LLMGateway %s/%s says something else, and one process serves both: write the same in both", first.Namespace, first.Name)
			return false
		}
		a, f := &g.Spec.Accounting, &first.Spec.Accounting
		auth := &g.Spec.Authentication
		t := &g.Spec.Telemetry
		same("spec.telemetry.tracing", t.Tracing, first.Spec.Telemetry.Tracing)
		same("spec.telemetry.accessLog", t.AccessLog, first.Spec.Telemetry.AccessLog)
		same("spec.accounting.currency", a.Currency, f.Currency)
		same("spec.accounting.retentionDays", a.RetentionDays, f.RetentionDays)
		same("spec.accounting.ledger", a.Ledger, f.Ledger)
		same("spec.authentication.keyStore", auth.KeyStore, first.Spec.Authentication.KeyStore)
		same("spec.authentication.maxFailedLogins", auth.MaxFailedLogins, first.Spec.Authentication.MaxFailedLogins)
		if same("spec.sharedState", g.Spec.SharedState, first.Spec.SharedState) && i == 0 && g.Spec.SharedState != nil {
			out.Shared = c.shared(ref, g)
		}
		if auth.External != nil {
			switch conf, ok := c.authz(ref, auth.External); {
			case !ok:
			case out.Authz != nil:
				c.refusef(ref, "spec.authentication.external", source.ReasonConflict, "another LLMGateway of this process serves external authorization already; leave it to one")
			default:
				out.Authz = conf
			}
		}
		if i > 0 {
			continue
		}
		out.Telemetry = telemetry(t)
		out.Currency = a.Currency
		out.Retention = time.Duration(a.RetentionDays) * 24 * time.Hour
		out.ShipLedger = a.Ledger == v1alpha1.LedgerRedis
		out.StoredKeys = auth.KeyStore == v1alpha1.KeysRedis
		if auth.MaxFailedLogins != nil {
			out.MaxFailedLogins = int(*auth.MaxFailedLogins)
		}
	}
}

func telemetry(t *v1alpha1.Telemetry) Telemetry {
	out := Telemetry{
		Sampling: -1, KeepFailed: t.Tracing.KeepFailed == nil || *t.Tracing.KeepFailed, KeepSlower: duration(t.Tracing.KeepSlowerThan),
		AccessLog: t.AccessLog != v1alpha1.AccessLogDisabled,
	}
	if percent, err := strconv.ParseFloat(t.Tracing.Sampling, 64); err == nil {
		out.Sampling = percent / 100
	}
	return out
}

// shared resolves how Redis is reached. It returns nil, with problems, when something is missing.
func (c *compiler) shared(ref source.ObjectRef, g *v1alpha1.LLMGateway) *Shared {
	spec := &g.Spec.SharedState.Redis
	ok := true
	secret := func(field string, r *v1alpha1.SecretRef) string {
		if r == nil {
			return ""
		}
		s, found := c.secret(ref, "spec.sharedState.redis."+field, *r, "it")
		ok = ok && found
		return s.Reveal()
	}
	conf := redisconn.Config{
		Mode: redisconn.Mode(spec.Mode), Addresses: spec.Addresses, MasterName: spec.MasterName, Database: int(spec.Database),
		Username: spec.Username, Password: redisconn.Secret(secret("passwordRef", spec.PasswordRef)),
		SentinelPassword: redisconn.Secret(secret("sentinelPasswordRef", spec.SentinelPasswordRef)),
		Timeout:          duration(spec.Timeout), ClientName: "weir",
	}
	if t := spec.TLS; t != nil {
		conf.TLS = &redisconn.TLS{
			ServerName: t.ServerName, CA: []byte(secret("tls.caRef", t.CARef)),
			Certificate: []byte(secret("tls.certificateRef", t.CertificateRef)),
			PrivateKey:  redisconn.Secret(secret("tls.privateKeyRef", t.PrivateKeyRef)),
		}
	}
	if !ok {
		return nil
	}
	if err := conf.Validate(); err != nil {
		c.errorf(ref, "spec.sharedState.redis", "%v", err)
		return nil
	}
	return &Shared{Redis: conf, KeyPrefix: spec.KeyPrefix}
}

// authz resolves where external authorization is served.
func (c *compiler) authz(ref source.ObjectRef, spec *v1alpha1.ExternalAuthorization) (*authz.Config, bool) {
	const field = "spec.authentication.external"
	ok := true
	secret := func(name string, r v1alpha1.SecretRef) []byte {
		s, found := c.secret(ref, field+"."+name, r, "it")
		ok = ok && found
		return []byte(s.Reveal())
	}
	conf := &authz.Config{Address: spec.Address, Port: uint16(spec.Port)}
	if spec.TLS != nil {
		conf.Certificate, conf.PrivateKey = secret("tls.certificateRef", spec.TLS.CertificateRef), secret("tls.privateKeyRef", spec.TLS.PrivateKeyRef)
		if ok {
			if err := checkKeyPair(string(conf.Certificate), string(conf.PrivateKey)); err != nil {
				c.errorf(ref, field+".tls", "%v", err)
				ok = false
			}
		}
	}
	if spec.ClientCARef != nil {
		conf.ClientCA = secret("clientCARef", *spec.ClientCARef)
		if spec.TLS == nil {
			c.errorf(ref, field+".clientCARef", "client certificates need tls, which is not set")
			ok = false
		}
	}
	return conf, ok
}
