package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan/scantest"
)

// validReference is Valid in terms of encoding/json: valid alone, valid inside an
// object, and valid UTF-8.
func validReference(data []byte) bool {
	wrapped := append(append([]byte{'['}, data...), ']')
	return json.Valid(data) && json.Valid(wrapped) && utf8.Valid(data)
}

func TestValidAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	inputs := scantest.Inputs()
	for _, input := range scantest.Inputs() {
		data, _ := strings.CutPrefix(input, `{"data":`)
		data, _ = strings.CutSuffix(data, `}`)
		inputs = append(inputs, data, " "+data+"\n")
	}
	for _, input := range inputs {
		require.Equal(t, validReference([]byte(input)), jsonscan.Valid([]byte(input)), "%.100q", input)
	}
}

// TestSkipPlainStopsWhereItMust has every byte value at every position of the eight bytes
// that skipPlain checks at once, next to bytes that a borrow could affect.
func TestSkipPlainStopsWhereItMust(t *testing.T) {
	t.Parallel()
	for _, filler := range []byte{'a', 0x80, 0xff, '#', '!', ']', ' '} {
		for c := range 256 {
			for at := range 19 {
				b := bytes.Repeat([]byte{filler}, 19)
				b[at] = byte(c)
				want := len(b)
				if c < ' ' || c == '"' || c == '\\' {
					want = at
				}
				if got := jsonscan.SkipPlain(b, 0); got != want { // require.Equal is slow
					t.Fatalf("stopped at %d instead of %d in %q", got, want, b)
				}
			}
		}
	}
}

// scan reads the members of a string, an integer and a value.
func scan(data []byte) (text string, n int64, value string, ok bool) {
	s := jsonscan.New(data)
	for s.Next() {
		switch string(s.Key()) {
		case "text":
			text = string(s.Text())
		case "n":
			n = s.Integer()
		case "value":
			value = string(s.Value())
		default:
			s.Skip()
		}
	}
	return text, n, value, s.Complete()
}

// requireLikeJSON checks that encoding/json reads the same members as the Scanner, if the
// Scanner reads data to its end.
func requireLikeJSON(t *testing.T, data []byte) {
	t.Helper()
	text, n, value, ok := scan(data)
	member, memberOK := jsonscan.String(data, "text")
	if !utf8.Valid(data) || !ok && !memberOK {
		return
	}
	var want struct {
		Text  string          `json:"text"`
		N     json.RawMessage `json:"n"`
		Value json.RawMessage `json:"value"`
	}
	require.NoError(t, json.Unmarshal(data, &want), "%.100q", data)
	if memberOK {
		require.Equal(t, want.Text, member, "%.100q", data)
	}
	if ok {
		require.Equal(t, want.Text, text, "%.100q", data)
		require.Equal(t, string(want.Value), value, "%.100q", data)
		if want.N != nil {
			var wantN int64
			require.NoError(t, json.Unmarshal(want.N, &wantN))
			require.Equal(t, wantN, n, "%.100q", data)
		}
	}
}

func TestScannerAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, input := range scannerInputs() {
		requireLikeJSON(t, []byte(input))
	}
}

// scannerInputs returns the common inputs with the keys that scan knows.
func scannerInputs() []string {
	names := strings.NewReplacer(`"type"`, `"text"`, `"timestamp"`, `"n"`, `"data"`, `"value"`)
	var inputs []string
	for _, input := range scantest.Inputs() {
		inputs = append(inputs, names.Replace(input))
	}
	return inputs
}

func TestScanner(t *testing.T) {
	t.Parallel()
	tests := []struct {
		input string
		text  string
		n     int64
		value string
		ok    bool
	}{
		{`{}`, "", 0, "", true},
		{` { "text" : "a b" , "n" : -12 , "value" : [ 1 , {"x":"}"} ] } `, "a b", -12, `[ 1 , {"x":"}"} ]`, true},
		{`{"text":"a","other":{"text":"b"},"text":"c"}`, "c", 0, "", true},
		{`{"n":9223372036854775807}`, "", 9223372036854775807, "", true},
		{`{"n":9223372036854775808}`, "", 0, "", false},
		{`{"n":1.5}`, "", 1, "", false},
		{`{"text":"a\n"}`, "", 0, "", false},
		{`{"Text":"a"}`, "", 0, "", false},
		{`{"text":"a"} x`, "a", 0, "", false},
		{`{"text":"a",}`, "a", 0, "", false},
		{`[]`, "", 0, "", false},
		{``, "", 0, "", false},
	}
	for _, tt := range tests {
		text, n, value, ok := scan([]byte(tt.input))
		require.Equal(t, tt.ok, ok, tt.input)
		require.Equal(t, tt.text, text, tt.input)
		require.Equal(t, tt.n, n, tt.input)
		require.Equal(t, tt.value, value, tt.input)
	}
}

func TestCheckUTF8(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]int{
		"": -1, "abc": -1, "頻道😀\ufffd": -1, "\xff": 0, "ab\xff": 2, "頻\xe9\xa0": 3, "\xed\xa0\x80": 0, "a\xc0\x80": 1,
	} {
		offset, ok := jsonscan.CheckUTF8([]byte(input))
		require.Equal(t, want < 0, ok, "%q", input)
		require.Equal(t, max(want, 0), offset, "%q", input)
	}
}

// Not parallel: allocations are counted for the whole process.
func TestScannerDoesNotAllocate(t *testing.T) {
	data := []byte(`{"text":"a","n":5,"value":[1,{"x":"y"}],"other":null}`)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		s := jsonscan.New(data)
		for s.Next() {
			switch string(s.Key()) {
			case "text":
				s.Text()
			case "n":
				s.Integer()
			case "value":
				s.Value()
			default:
				s.Skip()
			}
		}
		if !s.Complete() || !jsonscan.Valid(data) {
			t.Error("not complete")
		}
	}))
}
