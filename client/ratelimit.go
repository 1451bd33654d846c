package client

import "time"

// rateLimit limits units (messages or bytes) per second. It allows bursts of one
// second's worth. Only the write loop uses it.
type rateLimit struct {
	paidTill time.Time // when all units spent so far have been earned
}

// spend records that n units were sent at now, and earns them at rate, in units per
// second. A negative rate means no limit. It returns the time from which more may be
// sent.
func (l *rateLimit) spend(n int, rate int64, now time.Time) time.Time {
	if rate < 0 {
		return now
	}
	if l.paidTill.Before(now) {
		l.paidTill = now
	}
	l.paidTill = l.paidTill.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return l.paidTill.Add(-time.Second)
}
