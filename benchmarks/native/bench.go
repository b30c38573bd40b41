// bench.go: the same work in Go: bench NAME COUNT [TASKS], or bench serve KIND WHERE ENDS [CERTIFICATE KEY]
//
// The first does the work NAME, after a tenth of it to warm up, and prints the CPU and wall time that it took,
// in seconds, as JSON.  The second is a server; uvserver.c says what it reads and prints.  CPU time is that of the
// whole process, with all its threads.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	fail(err)
	return value
}

// ---- the clock ---------------------------------------------------------------

type clock struct {
	cpu  float64
	wall time.Time
}

func cpu() float64 {
	var used syscall.Rusage
	fail(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return float64(used.Utime.Nano()+used.Stime.Nano()) * 1e-9
}

func begin() clock {
	return clock{cpu(), time.Now()}
}

func (self clock) print() {
	fmt.Printf("{\"cpu\": %.9f, \"wall\": %.9f}\n", cpu()-self.cpu, time.Since(self.wall).Seconds())
}

// ---- goroutines ------------------------------------------------------------------

func spawnJoin(count, _ int) {
	var all sync.WaitGroup
	all.Add(count)
	for i := 0; i < count; i++ {
		go all.Done()
	}
	all.Wait()
}

func spawnEach(count, _ int) {
	done := make(chan bool)
	for i := 0; i < count; i++ {
		go func() { done <- true }()
		<-done
	}
}

func spawnYieldJoin(count, _ int) {
	var all sync.WaitGroup
	all.Add(count)
	for i := 0; i < count; i++ {
		go func() {
			runtime.Gosched()
			all.Done()
		}()
	}
	all.Wait()
}

func yields(count, tasks int) {
	inTurns(count, tasks, runtime.Gosched)
}

func lockContended(count, tasks int) {
	var lock sync.Mutex
	inTurns(count, tasks, func() {
		lock.Lock()
		runtime.Gosched()
		lock.Unlock()
	})
}

func inTurns(count, tasks int, turn func()) {
	var all sync.WaitGroup
	all.Add(tasks)
	for i := 0; i < tasks; i++ {
		go func() {
			for i := 0; i < count/tasks; i++ {
				turn()
			}
			all.Done()
		}()
	}
	all.Wait()
}

func lockAlone(count, _ int) {
	var lock sync.Mutex
	for i := 0; i < count; i++ {
		lock.Lock()
		lock.Unlock()
	}
}

func queueAlone(count, _ int) {
	queue := make(chan int, 1)
	for i := 0; i < count; i++ {
		queue <- i
		<-queue
	}
}

// tasks: for how many items there is room.
func queueOfTwo(count, room int) {
	queue := make(chan int, room)
	go func() {
		for i := 0; i < count; i++ {
			queue <- i
		}
	}()
	for i := 0; i < count; i++ {
		<-queue
	}
}

func ring(count, tasks int) {
	channels := make([]chan int, tasks)
	for i := range channels {
		channels[i] = make(chan int)
	}
	done := make(chan bool)
	for i := range channels {
		from, to := channels[i], channels[(i+1)%tasks]
		go func() {
			for left := range from {
				if left == 0 {
					close(done)
					return
				}
				to <- left - 1
			}
		}()
	}
	channels[0] <- count
	<-done
}

func timersCancelled(count, _ int) {
	for i := 0; i < count; i++ {
		time.AfterFunc(time.Duration(1+i%100)*time.Second, func() {}).Stop()
	}
}

var works = map[string]func(count, tasks int){
	"spawn_join":       spawnJoin,
	"spawn_each":       spawnEach,
	"spawn_yield_join": spawnYieldJoin,
	"yield":            yields,
	"lock":             lockAlone,
	"lock100":          lockContended,
	"queue":            queueAlone,
	"queue1":           queueOfTwo,
	"channel":          queueOfTwo,
	"ring":             ring,
	"timers_cancel":    timersCancelled,
}

// ---- servers ------------------------------------------------------------------------

type server struct {
	started chan clock
	clock   clock
	left    int64
}

func (self *server) finish() {
	self.clock = <-self.started
	self.clock.print()
	os.Exit(0)
}

func (self *server) handle(connection net.Conn, once bool) {
	buffer := make([]byte, 65536)
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			break
		}
		connection.Write(buffer[:n])
		if once {
			break
		}
	}
	connection.Close()
	if atomic.AddInt64(&self.left, -1) == 0 {
		self.finish()
	}
}

func (self *server) accept(listener net.Listener, once bool) {
	for {
		connection, err := listener.Accept()
		fail(err)
		go self.handle(connection, once)
	}
}

func (self *server) echoDatagrams(socket *net.UDPConn) {
	buffer := make([]byte, 65536)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buffer)
		fail(err)
		socket.WriteToUDPAddrPort(buffer[:n], from)
		if n == 1 {
			self.finish()
		}
	}
}

func serve(kind, where string, ends int, certificate []string) {
	self := &server{started: make(chan clock, 1), left: int64(ends)}
	if kind == "udp" {
		socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		fail(err)
		fmt.Println(socket.LocalAddr().(*net.UDPAddr).Port)
		go self.echoDatagrams(socket)
	} else if kind == "unix" {
		listener, err := net.Listen("unix", where)
		fail(err)
		fmt.Println(where)
		go self.accept(listener, false)
	} else {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		fail(err)
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		if kind == "tls" {
			pair, err := tls.LoadX509KeyPair(certificate[0], certificate[1])
			fail(err)
			listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
		}
		go self.accept(listener, kind == "accept")
	}
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fail(err)
	self.started <- begin()
	fmt.Println("measuring")
	select {}
}

func main() {
	if len(os.Args) > 4 && os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3], number(os.Args[4]), os.Args[5:])
		return
	}
	count, tasks := number(os.Args[2]), 0
	if len(os.Args) > 3 {
		tasks = number(os.Args[3])
	}
	work := works[os.Args[1]]
	work(count/10, tasks)
	runtime.GC()
	clock := begin()
	work(count, tasks)
	clock.print()
}
