package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// server is the engine or a node, which runs in a process of its own.
type server struct {
	name string
	url  string // printed by the first process, before other goroutines know the server
	args func(s *server) []string
	env  []string
	log  io.Writer

	mu      sync.Mutex // guards process, and is held while a process starts or ends
	process *process   // nil before the first start
}

// process is a running program, or one that has ended.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer     // the program ends when it is closed
	ended chan struct{} // closed when the program has ended
}

// stopTime is how long a process may take to end before it is killed.
const stopTime = 20 * time.Second

// start starts the server's process. It returns when the server accepts connections.
func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return fmt.Errorf("%s is running", s.name)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, s.args(s)...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stderr = s.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd, stdin, make(chan struct{})}
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n') // the URL; an error means that the process has ended
	go func() {                       // returns when the process has ended
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // whether the process was killed does not matter
		close(p.ended)
	}()
	if err != nil {
		<-p.ended
		return fmt.Errorf("%s does not start", s.name) // its log says why
	}
	s.process = p
	if s.url == "" {
		s.url = strings.TrimSpace(line)
	}
	return nil
}

// running reports whether the process runs. s.mu is locked.
func (s *server) running() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.ended:
		return false
	default:
		return true
	}
}

// end stops the process, or kills it without a warning. It returns when the process has
// ended.
func (s *server) end(kill bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return fmt.Errorf("%s is not running", s.name)
	}
	if !kill {
		_ = s.process.stdin.Close() // fails only if the process has ended
		select {
		case <-s.process.ended:
			return nil
		case <-time.After(stopTime):
		}
	}
	if err := s.process.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.process.ended
	if !kill {
		return fmt.Errorf("%s was killed, because it did not end within %s", s.name, stopTime)
	}
	return nil
}

// state describes the process in a word.
func (s *server) state() string {
	if !s.mu.TryLock() {
		return "changing"
	}
	defer s.mu.Unlock()
	if s.running() {
		return "running"
	}
	return "stopped"
}
