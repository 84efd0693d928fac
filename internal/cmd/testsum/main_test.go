package main

import (
	"bytes"
	"errors"
	"regexp"
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

// TestAgain: what may pass by itself, and what may not.
func TestAgain(t *testing.T) {
	fails := func(test, output string) string {
		return `{"Action":"output","Package":"q","Test":"` + test + `","Output":"` + output + `\n"}
{"Action":"fail","Package":"q","Test":"` + test + `"}
`
	}
	const (
		passed = `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`
		end = `{"Action":"fail","Package":"q"}
{"Action":"run-failed"}
`
	)
	two := fails("TestIntegrationX/sub", "late") + fails("TestIntegrationX", "late")
	for name, c := range map[string]struct {
		in    string
		alone error
		ok    bool
		runs  int
		last  string
	}{
		"steady":     {passed, nil, true, 0, "1 passed, 0 failed, 0 skipped"},
		"unsteady":   {passed + two + end, nil, true, 1, "3 passed, 0 failed, 0 skipped"},
		"fails":      {passed + two + end, errors.New("exit 1"), false, 1, "1 passed, 2 failed, 0 skipped"},
		"other name": {passed + two + fails("TestB", "wrong") + end, nil, false, 0, "1 passed, 3 failed, 0 skipped"},
		"race":       {passed + fails("TestIntegrationX", "WARNING: DATA RACE") + end, nil, false, 0, "1 passed, 1 failed, 0 skipped"},
		"many": {passed + fails("TestIntegrationA", "") + fails("TestIntegrationB", "") + fails("TestIntegrationC", "") +
			fails("TestIntegrationD", "") + end, nil, false, 0, "1 passed, 4 failed, 0 skipped"},
		"panic": {passed + two + end + `{"Action":"output","Package":"u","Output":"FAIL\tu\t0.1s\n"}
{"Action":"fail","Package":"u"}
`, nil, false, 0, "1 passed, 3 failed, 0 skipped"},
	} {
		var out bytes.Buffer
		s := newSummary(&out)
		require.NoError(t, s.read(strings.NewReader(c.in)), name)
		runs := 0
		s.again(regexp.MustCompile("^TestIntegration"), func(id testID) error {
			require.Equal(t, testID{"q", "TestIntegrationX"}, id, name)
			runs++
			return c.alone
		})
		require.Equal(t, c.ok, s.finish(true), "%s: %s", name, out.String())
		require.Equal(t, c.runs, runs, name)
		require.True(t, strings.HasSuffix(out.String(), "\n"+c.last+"\n") || out.String() == c.last+"\n", "%s: %s", name, out.String())
		require.Equal(t, c.ok && c.runs > 0, strings.Contains(out.String(), "\nunsteady q TestIntegrationX: "), name)
	}
}
