package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	known := []string{"a", "b", "c"}
	got, err := choose("row", "c,a", known)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "c"}, got)
	got, err = choose("row", "all", known)
	require.NoError(t, err)
	require.Equal(t, known, got)
	_, err = choose("row", "d", known)
	require.ErrorContains(t, err, `unknown row "d"`)
}

func TestRows(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		require.NotNil(t, r.run, r.name)
		require.NotEmpty(t, r.columns, r.name)
		for _, s := range r.systems {
			require.Contains(t, systemNames(), s, r.name)
		}
		for _, g := range r.goals {
			if g.ref != "" && g.ref != best && g.refRow == "" {
				require.Contains(t, r.systems, g.ref, "the goal of %s", r.name)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	tests := map[float64]string{
		0: "0", 0.001: "0.001", 0.063: "0.06", 3.517: "3.52", 12.34: "12.3", 123.4: "123",
		1234: "1,234", 12316182: "12,316,182", -1234: "-1,234", -123: "-123", -0.5: "-0.50",
	}
	for in, want := range tests {
		require.Equal(t, want, number(in))
	}
}

func testReport(t *testing.T, entries ...*entry) *report {
	t.Helper()
	r := newReport(config{rounds: 1, clients: 1000})
	r.Entries = entries
	r.summarize()
	return r
}

func of(row, variant, system string, samples ...sample) *entry {
	return &entry{Row: row, Variant: variant, System: system, Samples: samples}
}

func goalResultOf(t *testing.T, r *report, row, metric string) goalResult {
	t.Helper()
	for _, v := range r.Goals {
		if v.Row == row && v.Metric == metric {
			return v
		}
	}
	t.Fatalf("no goal result for %s, %s", row, metric)
	return goalResult{}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	r := testReport(t,
		of("burst1000", "", ours, sample{mCPU: 0.10, mLost: 0}, sample{mCPU: 0.12, mLost: 0}, sample{mCPU: 0.90, mLost: 5}),
		of("burst1000", "", tuned, sample{mCPU: 1.46}),
		of("rate", "", ours, sample{mRate: 4100}),
		of("rate", "", centrifuge, sample{mRate: 1000}),
		of("burst200", "", ours, sample{mCPU: 0.1}),
		of("sealed-hub", "", ours, sample{mCPU: 0.21}),
		of("echo", "", ours, sample{mCPU: 20, mAllocs: 3}),
		of("history", "burst"+kept, ours, sample{mCPU: 2.4}),
		of("history", "burst", ours, sample{mCPU: 2}),
	)
	v := goalResultOf(t, r, "burst1000", mCPU)
	require.InDelta(t, 0.12/1.46, v.Ratio, 1e-9, "ratio of medians")
	require.Equal(t, "met", v.Result)
	v = goalResultOf(t, r, "burst1000", mLost)
	require.Equal(t, "missed", v.Result, "a loss in any round counts")
	require.Equal(t, "met", goalResultOf(t, r, "rate", mRate).Result)
	require.Equal(t, "missed", goalResultOf(t, r, "sealed-hub", mCPU).Result, "against the unsealed row")
	require.Equal(t, "met", goalResultOf(t, r, "echo", mAllocs).Result)
	v = goalResultOf(t, r, "history", mCPU)
	require.InDelta(t, 1.2, v.Ratio, 1e-9, "against the other variant")
	require.Equal(t, "missed", v.Result)
	require.Equal(t, "not measured", goalResultOf(t, r, "echo", mCPU).Result, "no reference in this run")
}

func TestBestPeerLosesNothing(t *testing.T) {
	t.Parallel()
	r := testReport(t,
		of("rooms", "unpaced", ours, sample{mCPU: 1}),
		of("rooms", "unpaced", bare, sample{mCPU: 2}), // a floor is not a peer
		of("rooms", "unpaced", melody, sample{mCPU: 3, mLost: 1}),
		of("rooms", "unpaced", gws, sample{mCPU: 5, mLost: 0}),
		of("rooms", "unpaced", gorilla, sample{mCPU: 8, mLost: 0}),
	)
	v := goalResultOf(t, r, "rooms", mCPU)
	require.InDelta(t, 0.2, v.Ratio, 1e-9)
	require.Contains(t, v.Ref, gws)
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := testReport(t,
		of("burst200", "", gws, sample{mCPU: 2, mLost: 0}, sample{mCPU: 4, mLost: 1}),
		of("burst200", "", ours, sample{mCPU: 0.1}),
		of("members", "10", ours, sample{mCPU: 0.5}),
	)
	r.Missing = []string{centrifuge}
	r.Failures = []string{"burst200, melody, round 1: no"}
	md := r.markdown()
	require.Contains(t, md, "| gws | 3.00 (2.00–4.00) |")
	require.Contains(t, md, "| 10 | ours | 0.50 |")
	require.Contains(t, md, "Not in this build: centrifuge.")
	require.Contains(t, md, "- burst200, melody, round 1: no")
	require.Contains(t, md, "not measured")
	j, err := json.Marshal(r)
	require.NoError(t, err)
	var back report
	require.NoError(t, json.Unmarshal(j, &back))
	require.Equal(t, r.find("burst200", "", gws).Summary, back.find("burst200", "", gws).Summary)
}
