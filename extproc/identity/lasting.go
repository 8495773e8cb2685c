package identity

import "time"

// Lasting says until when Authenticate would go on to give id for a credential that it has just taken, whatever the caller's address, if the
// configuration, the stored keys and the issuers' keys stay as they are: the zero Time for ever. ok is false where it depends on the
// address, and where the credential is not known or stands for another identity by now.
func (a *Authenticator) Lasting(h Headers, id *Identity, now time.Time) (until time.Time, ok bool) {
	cred, err := h.credential()
	if err != nil {
		return time.Time{}, false
	}
	sum := sumOf(cred)
	if k, _ := a.findKey(cred, &sum); k != nil {
		return k.expires, k.id == id && k.networks == nil && !k.disabled
	}
	e := a.cache.get(&sum, now)
	if e == nil || e.id != id {
		return time.Time{}, false
	}
	set, _ := e.issuer.keys.Current(now)
	return e.expires, set == e.keys
}
