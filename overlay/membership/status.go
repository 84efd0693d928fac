package membership

import (
	"fmt"
	"time"
)

// Status is a snapshot of a Member.
type Status struct {
	// Until is when our own membership ends; Err why we are none, as we see it.
	Until time.Time
	Err   error
	// Authorities are those that we know.
	Authorities []AuthorityStatus
}

// AuthorityStatus is a snapshot of an authority that a Member knows.
type AuthorityStatus struct {
	Name  string    // of its certificate
	Until time.Time // its certificate's end
	// ListUntil is when its next revocation list is due; zero: none was seen.
	ListUntil time.Time
	Revoked   int // certificates on its list
}

// Status is a snapshot.
func (x *Member) Status() Status {
	now := x.config.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	v := judge(x.authorities, x.config.Network, x.config.Lists, x.config.Self, x.own, now)
	s := Status{Err: v.err}
	for _, c := range x.own { // without the lists' ends
		for _, t := range x.authorities {
			if end := earlier(c.NotAfter, t.certificate.NotAfter); t.signed(c.RawIssuer, c.AuthorityKeyId) && end.After(s.Until) {
				s.Until = end
			}
		}
	}
	for _, t := range x.authorities {
		s.Authorities = append(s.Authorities, AuthorityStatus{
			Name: t.certificate.Subject.CommonName, Until: t.certificate.NotAfter, ListUntil: t.listEnd(), Revoked: len(t.revoked),
		})
	}
	return s
}

// Warnings are what an operator must see to, each with what to do.
func (s Status) Warnings(now time.Time) (list []string) {
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case s.Err != nil:
		list = append(list, fmt.Sprintf("we are no member: %v: issue this node a certificate and copy its folder here", s.Err))
	case s.Until.Sub(now) < DefaultLife/4:
		list = append(list, fmt.Sprintf("our certificate ends on %s: issue it anew and copy the folder here", day(s.Until)))
	}
	for _, a := range s.Authorities {
		switch {
		case a.ListUntil.IsZero():
			list = append(list, fmt.Sprintf("there is no revocation list of %s: copy the newest revoked.pem here", a.Name))
		case a.ListUntil.Before(now):
			list = append(list, fmt.Sprintf("the revocation list of %s is overdue since %s: renew it and copy revoked.pem here", a.Name, day(a.ListUntil)))
		case a.ListUntil.Sub(now) < ListLife/4:
			list = append(list, fmt.Sprintf("the next revocation list of %s is due on %s: renew it and copy revoked.pem here", a.Name, day(a.ListUntil)))
		}
		if a.Until.Sub(now) < AuthorityLife/20 {
			list = append(list, fmt.Sprintf("the authority %s ends on %s: make a new one beside it", a.Name, day(a.Until)))
		}
	}
	return list
}
