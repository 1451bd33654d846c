package client

import "time"

// rateLimit limits units (messages or bytes) per second. It allows bursts of one
// second's worth. Only the write loop uses it.
type rateLimit struct {
	rate     int64     // units per second; negative means no limit
	paidTill time.Time // when all units spent so far have been earned at rate
}

// spend records that n units were sent at now. It returns the time from which
// more may be sent.
func (l *rateLimit) spend(n int, now time.Time) time.Time {
	if l.rate < 0 {
		return now
	}
	if l.paidTill.Before(now) {
		l.paidTill = now
	}
	l.paidTill = l.paidTill.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	return l.paidTill.Add(-time.Second)
}
