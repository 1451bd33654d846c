package client

import "time"

// pace keeps what is sent below a rate, with a second's worth at once. The
// writer owns it.
type pace struct {
	rate int64 // a second; negative means any
	paid time.Time
}

// spend notes that n was sent at now, and returns when more may follow.
func (p *pace) spend(n int, now time.Time) time.Time {
	if p.rate < 0 {
		return now
	}
	if p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	return p.paid.Add(-time.Second)
}
