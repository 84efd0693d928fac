package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummary(t *testing.T) {
	const (
		pass = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
		fail = `{"Action":"output","Package":"q","Test":"TestB","Output":"    b_test.go:7: wrong\n"}
{"Action":"fail","Package":"q","Test":"TestB"}
{"Action":"output","Package":"q","Output":"FAIL\tq\t0.1s\n"}
{"Action":"fail","Package":"q"}
`
		skip = `{"Action":"output","Package":"r","Test":"TestC","Output":"=== RUN   TestC\n"}
{"Action":"output","Package":"r","Test":"TestC","Output":"    c_test.go:3: needs root\n"}
{"Action":"skip","Package":"r","Test":"TestC"}
{"Action":"pass","Package":"r"}
`
		build = `{"ImportPath":"s","Action":"build-output","Output":"s.go:1: syntax error\n"}
{"ImportPath":"s","Action":"build-fail"}
{"Action":"fail","Package":"s","FailedBuild":"s"}
`
		failed = `{"Action":"run-failed"}
`
		panics = `{"Action":"output","Package":"u","Test":"TestD","Output":"panic: oh\n"}
{"Action":"output","Package":"u","Output":"FAIL\tu\t0.1s\n"}
{"Action":"fail","Package":"u"}
`
	)
	for name, c := range map[string]struct {
		in     string
		noskip bool
		ok     bool
		last   string
		says   []string
	}{
		"pass":           {pass, true, true, "1 passed, 0 failed, 0 skipped", []string{"ok  \tp"}},
		"fail":           {pass + fail, false, false, "1 passed, 1 failed, 0 skipped", []string{"b_test.go:7: wrong", "FAIL\tq"}},
		"skip":           {pass + skip, false, true, "1 passed, 0 failed, 1 skipped", []string{"skipped r TestC: c_test.go:3: needs root"}},
		"skip, not here": {pass + skip, true, false, "1 passed, 0 failed, 1 skipped", []string{"nothing may be skipped"}},
		"build":          {pass + build, false, false, "1 passed, 1 failed, 0 skipped", []string{"syntax error", "FAIL\ts"}},
		"panic":          {pass + panics, false, false, "1 passed, 1 failed, 0 skipped", []string{"panic: oh"}},
		"nothing":        {"", false, false, "0 passed, 0 failed, 0 skipped", []string{"no package"}},
		"failed, unsaid": {pass + failed, false, false, "1 passed, 0 failed, 0 skipped", []string{"did not say why"}},
		"failed, said":   {pass + fail + failed, false, false, "1 passed, 1 failed, 0 skipped", nil},
		"no JSON":        {"go: no such module\n", false, false, "0 passed, 0 failed, 0 skipped", []string{"go: no such module"}},
		"only skips":     {skip, false, false, "0 passed, 0 failed, 1 skipped", nil},
	} {
		var out bytes.Buffer
		s := newSummary(&out)
		require.NoError(t, s.read(strings.NewReader(c.in)), name)
		require.Equal(t, c.ok, s.finish(c.noskip), name)
		require.True(t, strings.HasSuffix(out.String(), "\n"+c.last+"\n"), "%s: %s", name, out.String())
		for _, want := range c.says {
			require.Contains(t, out.String(), want, name)
		}
		if name == "pass" {
			require.NotContains(t, out.String(), "=== RUN")
		}
	}
}
