package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kvd-io/kvd/client"
)

const (
	defaultEndpoint = "127.0.0.1:7400"
	defaultPort     = "7400"
	// defaultTimeout is for commands whose work is small; longTimeout for those
	// that may have all data to go through.
	defaultTimeout = 5 * time.Second
	longTimeout    = 10 * time.Minute

	endpointsEnv = "KVCTL_ENDPOINTS"
)

// app is one call of kvctl.
type app struct {
	stdin  io.Reader
	stdout *bufio.Writer
	stderr io.Writer
	env    map[string]string
	// terminal tells whether the real stdout is one.
	terminal bool

	// Flags of all commands.
	endpoints []string
	timeout   time.Duration
	output    string
}

// run executes kvctl with the arguments and environment and returns its exit
// status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	a := &app{
		stdin: stdin, stdout: bufio.NewWriterSize(stdout, 64<<10), stderr: stderr,
		env: make(map[string]string), terminal: isTerminal(stdout),
	}
	for _, kv := range env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			a.env[name] = value
		}
	}
	root := a.newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	// What was found before a failure is printed before its message.
	if flushErr := a.stdout.Flush(); flushErr != nil && err == nil {
		err = fmt.Errorf("write output: %w", flushErr)
	}
	if err != nil {
		report(stderr, cmd.CommandPath(), err)
	}
	return exitStatus(err)
}

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvctl",
		Short: "Reads, writes and operates a kvd cluster",
		Long: "kvctl reads, writes and operates a kvd cluster.\n\n" +
			"Exit status: 0 done, 1 failed, 2 usage, 3 condition not met, 4 nothing there to return.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return usagef("say which command to run")
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	flags := root.PersistentFlags()
	flags.StringSliceVar(&a.endpoints, "endpoints", nil,
		"client `addresses` of nodes; one that runs is enough (env "+endpointsEnv+", default "+defaultEndpoint+")")
	flags.DurationVar(&a.timeout, "timeout", 0,
		"how long the command may take (default 5s; 10m for range, del of many keys, check disk and check consistency; bench: of each operation; watch: no end)")
	flags.StringVarP(&a.output, "output", "o", outputText, "`format`: text, json or table")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd.Name() == "put" && strings.Contains(err.Error(), "unknown") {
			err = fmt.Errorf("%w (a value that begins with '-' goes after --: kvctl put KEY -- -5)", err)
		}
		return &usageError{err}
	})
	root.AddCommand(
		a.newPut(), a.newGet(), a.newDel(), a.newRange(), a.newTxn(), a.newHistory(), a.newWatch(), a.newCompact(),
		a.newStatus(), a.newRing(), a.newCheck(), a.newBench(),
		a.newVersion(), a.newCompletion(),
	)
	return root
}

func (a *app) checkFlags() error {
	if err := checkOutput(a.output); err != nil {
		return err
	}
	if a.timeout < 0 {
		return usagef("--timeout is %s: must be positive", a.timeout)
	}
	if len(a.endpoints) == 0 {
		a.endpoints = strings.Split(a.env[endpointsEnv], ",")
	}
	endpoints, err := parseEndpoints(a.endpoints)
	if err != nil {
		return err
	}
	a.endpoints = endpoints
	return nil
}

// parseEndpoints adds the default port where there is none.
func parseEndpoints(list []string) ([]string, error) {
	var endpoints []string
	for _, e := range list {
		e = strings.TrimSpace(e)
		switch {
		case e == "":
			continue
		case strings.Contains(e, "/"):
			return nil, usagef("endpoint %q: want HOST:PORT, without a scheme", e)
		}
		if _, _, err := net.SplitHostPort(e); err != nil {
			var addrErr *net.AddrError
			if !errors.As(err, &addrErr) || addrErr.Err != "missing port in address" {
				return nil, usagef("endpoint %q: want HOST:PORT: %w", e, err)
			}
			e = net.JoinHostPort(strings.Trim(e, "[]"), defaultPort)
		}
		endpoints = append(endpoints, e)
	}
	if len(endpoints) == 0 {
		endpoints = []string{defaultEndpoint}
	}
	return endpoints, nil
}

// call runs do with a client and within the timeout; 0: until it is interrupted.
func (a *app) call(cmd *cobra.Command, timeout time.Duration, do func(context.Context, *client.Client) error) error {
	if a.timeout > 0 {
		timeout = a.timeout
	}
	ctx := cmd.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c, err := client.New(client.Config{Endpoints: a.endpoints})
	if err != nil {
		return err
	}
	err = do(ctx, c)
	if late := errors.Is(err, client.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded); late && cmd.Context().Err() == nil {
		err = a.whoAnswers(cmd.Context(), c, err)
	}
	if closeErr := c.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("close client: %w", closeErr)
	}
	return err
}

// answerTimeout is how long nodes have, after a failure, to show that they are there.
const answerTimeout = time.Second

// lateError is the failure of a call that was not answered in time though nodes answer.
type lateError struct{ err error }

func (e *lateError) Error() string { return e.err.Error() }
func (e *lateError) Unwrap() error { return e.err }

// whoAnswers has the error of a call that nobody has answered in time tell whether there
// are nodes at all.
func (a *app) whoAnswers(ctx context.Context, c *client.Client, err error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, mapErr := c.Map(ctx); mapErr == nil {
		return &lateError{err}
	}
	return fmt.Errorf("%w (endpoints %s)", err, strings.Join(a.endpoints, ","))
}

// usageArgs makes the complaints of an argument check usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

// isTerminal tells whether stream (a reader or writer) is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
