package compile

import (
	"errors"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// identityUnit is the authenticator, with what it was made of.
type identityUnit struct {
	unit
	auth   *identity.Authenticator
	config identity.Config
	weak   map[string]bool // "namespace/name" of APIKeys whose hash is worth guessing at
	advice []source.Problem
}

// pepperMAC is a pepper, made of a secret.
type pepperMAC struct {
	of string
	is *identity.Pepper
}

// identity builds the authenticator from Consumers, APIKeys and JWTIssuers, unless the last one can stay. That one stays knows the tokens that
// it has verified.
func (c *compiler) identity() {
	pepper := c.pepper()
	settle(c.Compiler, &c.failed, c.out.MaxFailedLogins)
	settle(c.Compiler, &c.stored, c.out.StoredKeys)
	old := c.identityUnit
	if old == nil || !old.counts() || !old.auth.Watches(c.opts.Keys) {
		u := &identityUnit{weak: map[string]bool{}}
		c.make(&u.unit, func() {
			for _, answer := range []*cell{&c.consumers.cell, &c.apiKeys.cell, &c.issuers.cell, &c.pepperOf.cell, &c.failed.cell, &c.stored.cell} {
				c.asks(answer)
			}
			c.authenticator(u, pepper)
		})
		u.advice = c.adviseOnNetworks()
		if old != nil {
			old.drop()
		}
		c.identityUnit = u
	}
	c.problems = append(c.problems, c.identityUnit.problems...)
	c.out.Table.Auth = c.identityUnit.auth
}

func (c *compiler) authenticator(u *identityUnit, pepper *identity.Pepper) {
	cfg := identity.Config{Shared: c.opts.Identity, MaxFailedLogins: c.out.MaxFailedLogins, Pepper: pepper}
	if !c.out.StoredKeys {
		cfg.Stored = nil
	}
	for _, o := range c.objs.Consumers {
		cfg.Consumers = append(cfg.Consumers, identity.Consumer{
			Namespace: o.Namespace, Name: o.Name, Tenant: o.Spec.Tenant, Labels: o.Spec.Labels,
			AllowedModels: names(o.Spec.AllowedModels), Scopes: o.Spec.Scopes,
		})
	}
	for _, o := range c.objs.APIKeys {
		ref := source.ObjectRef{Kind: "APIKey", Namespace: o.Namespace, Name: o.Name}
		if consumer := c.names[source.ObjectRef{Kind: "Consumer", Namespace: o.Namespace, Name: string(o.Spec.Consumer)}]; consumer == nil || consumer.n == 0 {
			c.unresolvedf(ref, "spec.consumer", source.ReasonRefNotFound, "there is no Consumer %s/%s", o.Namespace, o.Spec.Consumer)
			continue
		}
		hash := o.Spec.Hash
		if o.Spec.SecretRef != nil {
			secret, ok := c.secret(ref, "spec.secretRef", *o.Spec.SecretRef, "the key")
			if !ok {
				continue
			}
			hash = identity.HashKey(secret.Reveal())
			u.weak[o.Namespace+"/"+o.Name] = identity.ValidateKey(secret.Reveal()) != nil
		}
		kind, sum, err := identity.ParseHash(hash)
		if err != nil {
			c.errorf(ref, "spec.hash", "%v", err)
			continue
		}
		k := identity.Key{
			Namespace: o.Namespace, Name: o.Name, Consumer: string(o.Spec.Consumer),
			Hash: sum, Kind: kind, Prefix: o.Spec.Prefix, Disabled: o.Spec.Disabled,
			AllowedModels: names(o.Spec.AllowedModels), AllowedCIDRs: o.Spec.AllowedCIDRs, Scopes: o.Spec.Scopes,
			RequestsPerMinute: o.Spec.RequestsPerMinute,
		}
		if o.Spec.ExpiresAt != nil {
			k.ExpiresAt = o.Spec.ExpiresAt.Time
		}
		cfg.Keys = append(cfg.Keys, k)
	}
	for _, o := range c.objs.JWTIssuers {
		if i, ok := c.issuer(o); ok {
			cfg.Issuers = append(cfg.Issuers, i)
		}
	}
	u.config = cfg
	auth, errs := identity.New(cfg, c.opts.Keys)
	for _, err := range errs {
		var ce *identity.ConfigError
		if !errors.As(err, &ce) {
			c.errorf(source.ObjectRef{}, "", "%v", err)
			continue
		}
		field := ""
		if ce.Field != "" {
			field = "spec." + ce.Field
		}
		reason := source.Reason("")
		if ce.Conflict {
			reason = source.ReasonConflict
		}
		c.refusef(source.ObjectRef{Kind: ce.Kind, Namespace: ce.Namespace, Name: ce.Name}, field, reason, "%s", ce.Reason)
	}
	if len(cfg.Keys) == 0 && len(cfg.Issuers) == 0 && !c.out.StoredKeys {
		c.warnf(source.ObjectRef{}, "", "there is no APIKey and no JWTIssuer: every request will be refused with 401")
	}
	u.auth = auth
}

// pepper is the first gateway's, nil where it has none. Keys are not tied to a gateway, so all gateways must agree.
func (c *compiler) pepper() *identity.Pepper {
	var value string
	var out *identity.Pepper
	for i, g := range c.objs.Gateways {
		const field = "spec.authentication.keyPepperRef"
		at := source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}
		own := ""
		if ref := g.Spec.Authentication.KeyPepperRef; ref != nil {
			secret, ok := c.secret(at, field, *ref, "the pepper")
			if !ok {
				continue
			}
			own = secret.Reveal()
			p, err := c.pepperFrom(own)
			if err != nil {
				c.errorf(at, field, "%v", err)
				continue
			}
			if i == 0 {
				value, out = own, p
			}
		}
		if i > 0 && own != value {
			c.refusef(at, field, source.ReasonConflict, "the pepper is not that of LLMGateway %s/%s, and keys are valid at every gateway: give both the same",
				c.objs.Gateways[0].Namespace, c.objs.Gateways[0].Name)
		}
	}
	settle(c.Compiler, &c.pepperOf, value)
	return out
}

func (c *compiler) pepperFrom(secret string) (*identity.Pepper, error) {
	if c.pepperMAC.is != nil && c.pepperMAC.of == secret {
		return c.pepperMAC.is, nil
	}
	p, err := identity.NewPepper([]byte(secret))
	if err == nil {
		c.pepperMAC = pepperMAC{secret, p}
	}
	return p, err
}

func (c *compiler) issuer(o *v1alpha1.JWTIssuer) (identity.Issuer, bool) {
	ref := source.ObjectRef{Kind: "JWTIssuer", Namespace: o.Namespace, Name: o.Name}
	i := identity.Issuer{
		Namespace: o.Namespace, Name: o.Name, Issuer: o.Spec.Issuer, Audiences: o.Spec.Audiences,
		Algorithms: o.Spec.Algorithms, RequiredScopes: o.Spec.RequiredScopes,
		Claims: identity.ClaimMap{
			Consumer: o.Spec.Claims.Consumer, Tenant: o.Spec.Claims.Tenant,
			AllowedModels: o.Spec.Claims.AllowedModels, Scopes: o.Spec.Claims.Scopes, Labels: o.Spec.Claims.Labels,
		},
		Leeway: duration(o.Spec.Leeway),
	}
	keys := o.Spec.Keys
	i.Keys.KeepFor = duration(keys.KeepFor)
	switch {
	case keys.Discovery:
		i.Keys.Discovery = true
	case keys.URL != "":
		i.Keys.URL = keys.URL
	case keys.File != "":
		doc, ok := get(c, &c.secrets, source.FileKeyOf(keys.File))
		if !ok {
			c.refusef(ref, "spec.keys.file", source.ReasonSecretUnavailable, "the key set cannot be read")
			return i, false
		}
		i.Keys.JWKS = []byte(doc.Reveal())
	case keys.SecretRef != nil:
		secret, ok := c.secret(ref, "spec.keys.secretRef", *keys.SecretRef, "the secret")
		if !ok {
			return i, false
		}
		i.Keys.Secret = []byte(secret.Reveal())
	}
	return i, true
}

func names(list []v1alpha1.ModelName) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = string(n)
	}
	return out
}
