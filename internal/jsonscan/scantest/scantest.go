// Package scantest has JSON inputs for tests of package jsonscan and of the codec
// that uses it.
package scantest

import "strings"

// Inputs returns messages, valid and invalid, with rare forms of JSON.
func Inputs() []string {
	inputs := []string{
		``, ` `, `{`, `}`, `{}`, ` { } `, `{}x`, `{},`, `[]`, `null`, `"x"`, `1`, `{"type"}`, `{"type":}`, `{"type":"a",}`, `{,}`,
		`{"type":"a"`, `{"type":"a`, `{"type":"a"}}`, `{"type":"a" "id":"b"}`, `{type:"a"}`, `{"type" : "a" , "id" : "b" }`,
		"\t{\r\n\"type\"\t:\n\"a\"\r}\n ", "\ufeff{}", "{}\x00", "{\"type\":\"a\x01\"}", "{\"ty\x01pe\":\"a\"}",
		`{"Type":"a","CHANNEL":"b","Client_ID":"c"}`, `{"type":"a","TYPE":"b"}`, `{"TYPE":"a","type":"b"}`,
		"{\"clien\u017f_id\":\"x\"}", "{\"\u212aey\":1}", "{\"time\u017ftamp\":7}", `{"\u0074ype":"a"}`, `{"ty\pe":"a"}`,
		`{"type":"a","type":"b"}`, `{"channel":"a","channel":null}`, `{"timestamp":1,"timestamp":2}`, `{"data":1,"data":null}`, `{"data":null,"data":1}`,
		`{"type":null}`, `{"timestamp":null}`, `{"encoding":null,"data":"eA=="}`, `{"encoding":"","data":"eA=="}`,
		`{"type":1}`, `{"type":{}}`, `{"type":["a"]}`, `{"type":true}`, `{"id":7}`,
		`{"type":"\""}`, `{"type":"\ud83d\ude00"}`, `{"type":"\ud83d"}`, `{"type":"\u12"}`, `{"type":"\x"}`, `{"type":"é頻"}`, "{\"type\":\"\xff\"}",
		`{"timestamp":0}`, `{"timestamp":-0}`, `{"timestamp":-1}`, `{"timestamp":01}`, `{"timestamp":-}`, `{"timestamp":1.0}`, `{"timestamp":1e3}`,
		`{"timestamp":9223372036854775807}`, `{"timestamp":9223372036854775808}`, `{"timestamp":-9223372036854775808}`, `{"timestamp":-9223372036854775809}`,
		`{"timestamp":18446744073709551616}`, `{"timestamp":18446744073709551617}`, `{"timestamp":99999999999999999999999}`, `{"timestamp":"1"}`, `{"timestamp":+1}`, `{"timestamp":1 2}`,
		`{"timestamp":00000000000000000000000}`, `{"timestamp":1,}`,
		`{"data":true}`, `{"data":false}`, `{"data":tru}`, `{"data":nul}`, `{"data":truee}`, `{"data":"x"}`, `{"data": [ 1 , 2 ] }`, `{"data":{"a":{"b":[]}}}`,
		`{"data":[1,]}`, `{"data":[,1]}`, `{"data":[1 2]}`, `{"data":{"a":1,}}`, `{"data":{"a"}}`, `{"data":{a:1}}`, `{"data":{"a":1]}`, `{"data":[1}}`, `{"data":}`,
		`{"data":1.}`, `{"data":.5}`, `{"data":1e}`, `{"data":1e+}`, `{"data":1E-5}`, `{"data":-0.0e0}`, `{"data":--1}`, `{"data":0x1}`, `{"data":NaN}`, `{"data":"a\u00e9\/\b"}`, `{"data":"a\uZZZZ"}`,
		`{"data":"\ud800"}`, "{\"data\":\"tab\t\"}", `{"data":"` + strings.Repeat("0123456789", 5) + `"}`,
		`{"data":"eA==","encoding":"base64"}`, `{"encoding":"base64","data":"eA=="}`, `{"data":"","encoding":"base64"}`, `{"data":"e\u0041==","encoding":"base64"}`, `{"data":"eA\n==","encoding":"base64"}`,
		`{"data":"eA","encoding":"base64"}`, `{"data":"!","encoding":"base64"}`, `{"data":"eA==","encoding":"hex"}`, `{"data":1,"encoding":"base64"}`, `{"data":null,"encoding":"base64"}`, `{"encoding":"base64"}`,
		`{"data":{},"encoding":"base64"}`, `{"data":"bnVsbA==","encoding":"base64"}`, `{"data":"eA==","Encoding":"base64"}`, `{"data":"eA==","encoding":"BASE64"}`, `{"data":"eA==","encoding":7}`,
		`{"id":7,"type":"a"}`, `{"id":{"a":"}"},"type":"a"}`, `{"id":[1,"]"],"type":"a"}`, `{"id":true}`, `{"id":null}`, `{"id":7.5e3}`, `{"id":07}`, `{"id":-}`, `{"id":tru}`, `{"id":{}`, `{"id":}`,
		`{"id":"a","id":7}`, `{"id":7,"id":"a"}`, `{"id":"a","id":null}`, `{"ID":7}`, `{"id":"\u0061","id":7}`, `{"id":"\x"}`, `{"id":` + nested(66) + `}`, `{"id":"a","Id":"b","ID":7}`,
		`{"data":{"a":1},"encoding":"gzip"}`, `{"data":1,"encoding":{"base64":"base64"}}`, `{"data":1,"encoding":["base64"]}`, `{"data":1,"encoding":false}`, `{"data":1,"encoding":x}`,
		`{"data":"eA==","encoding":"base\u00364"}`, `{"data":"eA==","encoding":"base64","encoding":"gzip"}`, `{"data":"eA==","encoding":"gzip","encoding":"base64"}`, `{"data":"eA==","encoding":"base64","ENCODING":7}`,
		`{"data":"eA==","encoding":"base64","encoding":""}`, `{"data":"eA==","encoding":"base64","encoding":null}`, `{"data":"\ud800","encoding":"\ud800"}`,
		`{"except_self":true}`, `{"except_self":false}`, `{"except_self":null}`, `{"except_self":1}`, `{"except_self":"true"}`, `{"except_self":[true]}`, `{"except_self": true }`, `{"except_self":tru}`,
		`{"except_self":true,"except_self":false}`, `{"except_self":1,"Except_Self":true}`, `{"except_self":true,"EXCEPT_SELF":7}`, `{"type":"\u0061","except_self":true}`, `{"except\u005fself":true}`,
		`{"room":true}`, `{"room":false}`, `{"room":null}`, `{"room":"lobby"}`, `{"room":{"id":[1]}}`, `{"room":tru}`, `{"room":true,"Room":1}`, `{"room":"a","ROOM":true}`, `{"r\u006fom":true}`,
		`{"trace":"x"}`, `{"trace":""}`, `{"trace":null}`, `{"trace":["x"]}`, `{"trace":{"id":"x"},"type":"a"}`, `{"trace":"x","TRACE":7}`, `{"trace":"x","trace":"\u0079"}`, `{"trace":"\ud800"}`, `{"trace":x}`,
		`{"extra":{"type":"x"},"type":"a"}`, `{"extra":"x","Extra":[1,2]}`, `{"":1}`, `{"extra":}`, `{"extra":[}`, `{"日本":1}`,
	}
	for _, depth := range []int{62, 63, 64, 65, 66, 9998, 9999, 10000, 10001} {
		inputs = append(inputs, `{"data":`+nested(depth)+`}`, `{"extra":`+nested(depth)+`}`)
	}
	return inputs
}

// nested returns n nested arrays.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
