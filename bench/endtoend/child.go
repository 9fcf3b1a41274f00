package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// child is this program in another role. It is told what to do in a line on its standard
// input, answers in lines on its standard output, and ends when its input does, so it
// does not outlive the one that started it.
type child struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	lines *bufio.Scanner
}

func startChild(ctx context.Context, role string, order any) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, program, role)}
	c.cmd.Stderr = os.Stderr
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.lines = bufio.NewScanner(output)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := json.Marshal(order)
	if err == nil {
		_, err = c.input.Write(append(line, '\n'))
	}
	if err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// answer waits for the next line of the child.
func (c *child) answer(to any) error {
	if !c.lines.Scan() {
		return fmt.Errorf("a process ended before it answered: %w", c.cmd.Wait())
	}
	return json.Unmarshal(c.lines.Bytes(), to)
}

// end ends the child and waits until it has.
func (c *child) end() {
	c.input.Close()
	_ = c.cmd.Wait() // what it has to say it has said
}

// order reads what this child is to do. The context ends when the standard input does.
func order(of any) (context.Context, error) {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("reading what to do: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, input) // any end is the end
		cancel()
	}()
	return ctx, json.Unmarshal(line, of)
}

func reply(answer any) error { return json.NewEncoder(os.Stdout).Encode(answer) }
