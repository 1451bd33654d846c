package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/tally"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// report is the contents of the JSON file.
type report struct {
	Date      string            `json:"date"`
	Took      string            `json:"took"`
	Processor string            `json:"processor"`
	Cores     int               `json:"cores"`
	Kernel    string            `json:"kernel"`
	Go        string            `json:"go"`
	Versions  map[string]string `json:"versions"`
	Rounds    int               `json:"rounds"`
	Quick     bool              `json:"quick"`
	Clients   int               `json:"clients"`
	Missing   []string          `json:"missing_systems,omitempty"`
	Entries   []*entry          `json:"entries"`
	Goals     []goalResult      `json:"goals"`
	Notes     []string          `json:"notes,omitempty"`
	Failures  []string          `json:"failures,omitempty"`
}

// entry has the samples of one system in one row.
type entry struct {
	Row     string                  `json:"row"`
	Variant string                  `json:"variant,omitempty"`
	System  string                  `json:"system"`
	Samples []sample                `json:"samples"`
	Summary map[string]tally.Spread `json:"summary"`
}

// has reports whether a metric was measured.
func (e *entry) has(metric string) bool {
	_, ok := e.Summary[metric]
	return ok
}

// goalResult is the comparison of one figure with its goal.
type goalResult struct {
	Row     string  `json:"row"`
	Variant string  `json:"variant,omitempty"`
	Metric  string  `json:"metric"`
	Goal    string  `json:"goal"`
	Ref     string  `json:"reference,omitempty"`
	Value   float64 `json:"value"`
	Ratio   float64 `json:"ratio,omitempty"` // of Value to the reference
	Result  string  `json:"result"`          // met, missed or not measured
}

func newReport(c config) *report {
	return &report{
		Date: time.Now().UTC().Format("2006-01-02"), Processor: usage.Processor(), Cores: runtime.NumCPU(),
		Kernel: usage.Kernel(), Go: runtime.Version(), Rounds: c.rounds, Quick: c.quick, Clients: c.clients,
	}
}

func (r *report) find(row, variant, system string) *entry {
	for _, e := range r.Entries {
		if e.Row == row && e.Variant == variant && e.System == system {
			return e
		}
	}
	return nil
}

func (r *report) add(row, variant, system string, s sample) {
	e := r.find(row, variant, system)
	if e == nil {
		e = &entry{Row: row, Variant: variant, System: system}
		r.Entries = append(r.Entries, e)
	}
	e.Samples = append(e.Samples, s)
}

// summarize computes medians and compares them with the goals.
func (r *report) summarize() {
	for _, e := range r.Entries {
		values := map[string][]float64{}
		for _, s := range e.Samples {
			for k, v := range s {
				values[k] = append(values[k], v)
			}
		}
		e.Summary = map[string]tally.Spread{}
		for k, v := range values {
			e.Summary[k] = tally.Summarize(v)
		}
	}
	for _, row := range rows {
		measured := slices.ContainsFunc(r.Entries, func(e *entry) bool { return e.Row == row.name })
		for _, g := range row.goals {
			if measured {
				r.Goals = append(r.Goals, r.compare(row.name, g))
			}
		}
	}
}

func (r *report) compare(row string, g goal) goalResult {
	v := goalResult{Row: row, Variant: g.variant, Metric: g.metric, Ref: g.ref, Result: "not measured"}
	sign := "at most"
	if g.higher {
		sign = "at least"
	}
	mine := r.find(row, g.variant, ours)
	if mine != nil && !mine.has(g.metric) {
		mine = nil
	}
	if g.ref == "" {
		v.Goal = fmt.Sprintf("%s %.3g", sign, g.factor)
		if mine != nil {
			v.Value = mine.Summary[g.metric].Median
			if g.factor == 0 { // the goal is zero in every round
				v.Value = mine.Summary[g.metric].Max
			}
			v.Result = met(v.Value <= g.factor && !g.higher || v.Value >= g.factor && g.higher)
		}
		return v
	}
	refRow, refVariant := row, g.variant
	if g.refRow != "" {
		refRow = g.refRow
		v.Ref += " in " + refRow
	}
	if g.refVar != "" {
		refVariant = g.refVar
		v.Ref += ", " + refVariant
	}
	v.Goal = fmt.Sprintf("%s %.3g of %s", sign, g.factor, v.Ref)
	var ref *entry
	if g.ref == best {
		if ref = r.bestPeer(refRow, g); ref != nil {
			v.Ref += ", " + ref.System
		}
	} else {
		ref = r.find(refRow, refVariant, g.ref)
	}
	if mine != nil {
		v.Value = mine.Summary[g.metric].Median
	}
	if mine == nil || ref == nil || ref.Summary[g.metric].Median == 0 {
		return v
	}
	v.Ratio = v.Value / ref.Summary[g.metric].Median
	if g.higher {
		v.Result = met(v.Ratio >= g.factor)
	} else {
		v.Result = met(v.Ratio <= g.factor)
	}
	return v
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

// bestPeer returns the peer with the best median among those without losses.
func (r *report) bestPeer(row string, g goal) (found *entry) {
	for _, e := range r.Entries {
		if e.Row != row || e.Variant != g.variant || !slices.Contains(peers, e.System) || e.Summary[mLost].Max > 0 {
			continue
		}
		if found == nil || (e.Summary[g.metric].Median < found.Summary[g.metric].Median) != g.higher {
			found = e
		}
	}
	return found
}

// column is a column of a table. It shows the median, unless worst is set.
type column struct {
	head   string
	metric string
	scale  float64 // factor; 0 means 1
	spread bool    // add the smallest and the largest value
	worst  bool    // show the largest value
}

var (
	lossColumns = []column{
		{head: "lost", metric: mLost, worst: true},
		{head: "out of order", metric: mDisorder, worst: true},
		{head: "disconnected", metric: mDisconnected, worst: true},
	}
	tailColumns = []column{
		{head: "load generator CPU µs", metric: mGenCPU},
		{head: "load generator cores", metric: mGenBusy},
		{head: "other processes' cores", metric: mOthers},
	}
	cpuColumn   = column{head: "CPU µs/delivery", metric: mCPU, spread: true}
	allocColumn = column{head: "allocs/delivery", metric: mAllocs}
	memColumn   = column{head: "memory MiB", metric: mMemory, scale: 1.0 / (1 << 20), spread: true}
	evictColumn = column{head: "stalled clients disconnected", metric: mEvicted, worst: true}

	burstColumns = slices.Concat([]column{cpuColumn, {head: "deliveries/s", metric: mPerSec}, allocColumn}, lossColumns, tailColumns)
	pacedColumns = slices.Concat([]column{cpuColumn, {head: "deliveries/s", metric: mPerSec},
		{head: "p50 µs", metric: mP50}, {head: "p99 µs", metric: mP99, spread: true}, {head: "max µs", metric: mMax, worst: true},
		allocColumn}, lossColumns, tailColumns)
	handlerColumns = slices.Concat([]column{
		{head: "handler p50 µs", metric: mHandlerP50, spread: true}, {head: "p90 µs", metric: mHandlerP90, spread: true},
		{head: "p99 µs", metric: mHandlerP99, spread: true}, cpuColumn,
	}, lossColumns, tailColumns)
	rateColumns = slices.Concat([]column{{head: "messages/s", metric: mRate, spread: true}, cpuColumn,
		{head: "p50 µs", metric: mP50}, {head: "p99 µs", metric: mP99}}, tailColumns)
	resumeColumns = slices.Concat([]column{{head: "CPU µs/missed message", metric: mCPU, spread: true}, {head: "messages/s", metric: mPerSec},
		{head: "allocs/message", metric: mAllocs}, {head: "not complete", metric: mIncomplete, worst: true}}, lossColumns, tailColumns)
	presenceColumns = slices.Concat([]column{{head: "CPU µs/client", metric: mCPU, spread: true}, {head: "messages about members, for each client", metric: mNotices},
		{head: "per second", metric: mNoticeRate, spread: true}, {head: "changes in them", metric: mChanges}, {head: "seconds", metric: mWall},
		{head: "members unknown in the end", metric: mUnknown, worst: true}, {head: "no reply", metric: mIncomplete, worst: true}, {head: "disconnected", metric: mDisconnected, worst: true}}, tailColumns)
	clusterColumns = slices.Concat([]column{cpuColumn, {head: "of them the publishing node", metric: mFirstCPU}, {head: "engine CPU µs/delivery", metric: mEngineCPU, spread: true},
		{head: "engine commands/delivery", metric: mCommands}, {head: "engine bytes in", metric: mEngineIn}, {head: "bytes out", metric: mEngineOut},
		{head: "deliveries/s", metric: mPerSec}, {head: "p50 µs", metric: mP50}, {head: "p99 µs", metric: mP99}, allocColumn,
		{head: "publish errors", metric: mErrors, worst: true}}, lossColumns, tailColumns)
	healColumns = slices.Concat([]column{{head: "seconds to heal", metric: mHeal, spread: true}, {head: "gaps", metric: mGaps, worst: true}, {head: "skipped", metric: mSkipped, worst: true},
		{head: "deliveries", metric: mCount}, {head: "publish errors", metric: mErrors, worst: true}}, lossColumns, tailColumns)
	drainColumns = []column{{head: "clients", metric: mClients}, {head: "left by themselves", metric: mLeft}, {head: "closed by the hub", metric: mClosed},
		{head: "seconds", metric: mTook}, {head: "peak of reconnects per second, of the even spread", metric: mPeak, spread: true}, {head: "longest stall, ms", metric: mStall, worst: true},
		{head: "missed", metric: mLost, worst: true}, {head: "repeated", metric: mRepeated, worst: true}, {head: "failed calls and gaps", metric: mErrors, worst: true}}
	slowColumns  = slices.Concat([]column{cpuColumn, memColumn, evictColumn, {head: "p99 µs", metric: mP99, spread: true}}, lossColumns, tailColumns)
	churnColumns = slices.Concat([]column{{head: "CPU µs/cycle", metric: mCPU, spread: true}, {head: "cycles/s", metric: mPerSec},
		{head: "allocs/cycle", metric: mAllocs}, {head: "failed", metric: mErrors, worst: true}}, tailColumns)
	idleColumns = []column{
		{head: "heap and stacks KB", metric: mIdle, scale: 1e-3, spread: true},
		{head: "resident KB", metric: mIdleRSS, scale: 1e-3, spread: true},
		{head: "goroutines", metric: mRoutines},
	}
)

func (c column) cell(e *entry) string {
	s, ok := e.Summary[c.metric]
	if !ok {
		return "–"
	}
	scale := c.scale
	if scale == 0 {
		scale = 1
	}
	switch {
	case c.worst:
		return number(s.Max * scale)
	case c.spread && len(e.Samples) > 1:
		return fmt.Sprintf("%s (%s–%s)", number(s.Median*scale), number(s.Min*scale), number(s.Max*scale))
	default:
		return number(s.Median * scale)
	}
}

// number formats v with three significant digits and with commas between thousands.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a < 0.01:
		return fmt.Sprintf("%.3f", v)
	case a < 10:
		return fmt.Sprintf("%.2f", v)
	case a < 100:
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks, %s\n\n", r.Date)
	fmt.Fprintf(&b, "%s, %d cores, %s, %s, loopback. Rounds: %d, each with every system in turn. Time: %s.\n"+
		"The figures are medians, with the smallest and the largest value in brackets.\n",
		r.Processor, r.Cores, r.Kernel, r.Go, r.Rounds, r.Took)
	if r.Clients != 1000 {
		fmt.Fprintf(&b, "The rows that say 1,000 clients had %d.\n", r.Clients)
	}
	if r.Quick {
		b.WriteString("This was a quick run: the figures are rough.\n")
	}
	var v []string
	for _, m := range []string{"github.com/gorilla/websocket", "github.com/olahol/melody", "github.com/lxzan/gws", "github.com/centrifugal/centrifuge"} {
		if ver := r.Versions[m]; ver != "" {
			v = append(v, m[strings.LastIndex(m[:strings.LastIndex(m, "/")], "/")+1:]+" "+ver)
		}
	}
	fmt.Fprintf(&b, "Peers: %s.\n", strings.Join(v, ", "))
	if len(r.Missing) > 0 {
		fmt.Fprintf(&b, "Not in this build: %s.\n", strings.Join(r.Missing, ", "))
	}
	for _, row := range rows {
		r.table(&b, row)
	}
	r.goalTable(&b)
	if len(r.Notes) > 0 {
		b.WriteString("\n## First error of a client in each run\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", n)
		}
	}
	if len(r.Failures) > 0 {
		b.WriteString("\n## Failed runs\n\n")
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(strings.TrimSpace(f), "\n", " "))
		}
	}
	return b.String()
}

func (r *report) table(b *strings.Builder, row row) {
	variants := false
	var in []*entry
	for _, e := range r.Entries {
		if e.Row == row.name {
			in = append(in, e)
			variants = variants || e.Variant != ""
		}
	}
	if len(in) == 0 {
		return
	}
	order := systemNames()
	var seen []string
	for _, e := range in {
		if !slices.Contains(seen, e.Variant) {
			seen = append(seen, e.Variant)
		}
	}
	slices.SortStableFunc(in, func(x, y *entry) int {
		if d := slices.Index(seen, x.Variant) - slices.Index(seen, y.Variant); d != 0 {
			return d
		}
		return slices.Index(order, x.System) - slices.Index(order, y.System)
	})
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n|", row.name, strings.ToUpper(row.title[:1])+row.title[1:])
	if variants {
		b.WriteString(" variant |")
	}
	b.WriteString(" system |")
	for _, c := range row.columns {
		fmt.Fprintf(b, " %s |", c.head)
	}
	b.WriteString("\n|")
	if variants {
		b.WriteString("---|")
	}
	b.WriteString("---|" + strings.Repeat("---:|", len(row.columns)) + "\n")
	for _, e := range in {
		b.WriteString("|")
		if variants {
			fmt.Fprintf(b, " %s |", e.Variant)
		}
		fmt.Fprintf(b, " %s |", e.System)
		for _, c := range row.columns {
			fmt.Fprintf(b, " %s |", c.cell(e))
		}
		b.WriteString("\n")
	}
}

func (r *report) goalTable(b *strings.Builder) {
	if len(r.Goals) == 0 {
		return
	}
	b.WriteString("\n## Goals\n\n| row | figure | goal | ours | ratio | result |\n|---|---|---|---:|---:|---|\n")
	for _, g := range r.Goals {
		row, value, ratio := g.Row, "–", "–"
		if g.Variant != "" {
			row += " " + g.Variant
		}
		if r.find(g.Row, g.Variant, ours) != nil {
			value = number(g.Value)
		}
		if g.Ratio != 0 {
			ratio = number(g.Ratio)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", row, g.Metric, g.Goal, value, ratio, g.Result)
	}
}

func (r *report) write(out, table string) error {
	j, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".json", append(j, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".md", []byte(table), 0o644)
}
