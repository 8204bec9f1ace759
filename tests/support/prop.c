/* prop: the stage prop of the tests, one program that is every kind of process they need.
 *
 *   prop hygiene                     print what a process inherits, one line a thing
 *   prop hostile N CMD...            make start condition N (1-8) and exec CMD
 *   prop deny NR,NR... CMD...        exec CMD under a filter that answers EPERM to these system calls
 *   prop stamp FILE TAG              append "TAG PID NS" to FILE and wait
 *   prop flash FILE TAG CODE [MS]    the same, then exit with CODE (after MS)
 *   prop escape FILE HOW MARK        start a helper that gets away (HOW: letters, below), then wait
 *        s setsid   d fork twice   e no environment   t ignore TERM   c close 0-2   g new process group
 *        x the main process ends at once, with 0, leaving the helper
 *   prop gate FIFO CODE              wait until nobody has the FIFO open for writing any more, then exit with CODE
 *   prop stubborn N MARK             a tree of N processes that ignore TERM, INT, HUP, QUIT
 *   prop refork FILE MARK            on TERM fork a copy into a new session and exit
 *   prop chain LANES FILE MARK       LANES chains of processes without environment, descriptors, session or parent, each
 *                                    of which forks the next and ends, without a pause (or after USEC, behind MARK),
 *                                    for 20 s; each holds a
 *                                    lock on FILE; then wait
 *   prop swarm N MARK                on TERM become N processes, each in a session of its own and deaf to TERM
 *   prop onterm LINES                on TERM print so many numbered lines, then exit 0
 *   prop count LINES [BLOCK [USEC]]  print numbered lines of 100 bytes; BLOCK > 0: in writes of that size;
 *                                    pause USEC after each write; then wait
 *   prop countexit LINES CODE        the same as fast as it can, then exit with CODE
 *   prop notify MS TEXT...           after MS send each TEXT to NOTIFY_SOCKET, then wait
 *   prop notifyflood                 send READY=1 to NOTIFY_SOCKET, and then anything as fast as it can
 *   prop http PORT MS FILE           after MS listen on 127.0.0.1:PORT, answer with the status in FILE (200 without)
 *   prop tcp PORT MS                 after MS listen, accept and close
 *   prop orphans N                   leave N grandchildren that end at once, print "done", wait
 *   prop signals FILE                append the name of each signal that arrives; TERM ends it with 0
 *   prop raise N                     die of signal N
 *   prop openout                     open /dev/stdout and /dev/stderr by path and write to them
 *   prop show FILE                   print a file, where there is no cat
 *   prop stopself                    SIGSTOP itself
 *   prop eat MIB                     touch that much memory, then wait
 *   prop soak DIR NAME SEED HOW      a short life of numbered lines, kept account of in DIR/NAME.lives (HOW: letters, below)
 *        f floods   t last words on TERM   i ignores TERM   o leaves orphans   h starts a helper that gets away
 *   prop setuid0 FILE MARK           become root entirely (the file must be set-uid), ignore TERM, wait
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void forever(void)
{
	for (;;)
		pause();
}

static void msleep(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static void append(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(9);
	close(fd);
}

static void stamp(const char *file, const char *tag)
{
	struct timespec t;
	char b[300];
	clock_gettime(CLOCK_MONOTONIC, &t);
	snprintf(b, sizeof b, "%s %d %lld\n", tag, (int)getpid(), t.tv_sec * 1000000000ll + t.tv_nsec);
	append(file, b);
}

/* ---- hygiene ---- */
static int hygiene(void)
{
	int bad = 0, n = 0;
	printf("dispositions:");
	for (int s = 1; s < 65; s++) {
		struct sigaction a;
		if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33 || sigaction(s, 0, &a))
			continue;
		if (a.sa_handler != SIG_DFL) {
			printf(" %s ignored", sigabbrev_np(s) ? sigabbrev_np(s) : "RT");
			bad++;
		}
	}
	/* glibc denies these two; the kernel does not. */
	for (int s = 32; s < 34; s++) {
		unsigned long a[4] = {0};
		if (!syscall(SYS_rt_sigaction, s, 0, a, 8) && a[0]) {
			printf(" %d ignored", s);
			bad++;
		}
	}
	printf("%s\n", bad ? "" : " default");
	sigset_t m;
	sigprocmask(SIG_BLOCK, 0, &m);
	printf("mask:");
	for (int s = bad = 0; s < 65; s++)
		if (s && sigismember(&m, s) == 1) {
			printf(" %d", s);
			bad++;
		}
	printf("%s\n", bad ? "" : " empty");
	printf("descriptors:");
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d)) {
			printf(" %s", e->d_name);
			n++;
		}
	printf("\n");
	if (d)
		closedir(d);
	char l[300] = "";
	ssize_t r = readlink("/proc/self/fd/0", l, sizeof l - 1);
	printf("stdin: %.*s\n", (int)(r > 0 ? r : 0), l);
	struct stat a, b;
	fstat(1, &a);
	fstat(2, &b);
	printf("stdout: %s\n", S_ISFIFO(a.st_mode) ? "a pipe" : "something else");
	printf("stderr: %s\n", a.st_ino == b.st_ino && a.st_dev == b.st_dev ? "the same" : "another");
	printf("pipe: owner %s\n", a.st_uid == geteuid() ? "is its user" : "is another");
	mode_t u = umask(0);
	printf("umask: %03o\n", u);
	printf("session: %s\n", getsid(0) == getpid() ? "own" : "another's");
	printf("group: %s\n", getpgrp() == getpid() ? "own" : "another's");
	int t = open("/dev/tty", O_RDWR);
	printf("terminal: %s\n", t < 0 ? "none" : "controlled");
	uid_t ru, eu, su;
	gid_t rg, eg, sg;
	getresuid(&ru, &eu, &su);
	getresgid(&rg, &eg, &sg);
	printf("user: %d %d %d\ngroup id: %d %d %d\n", ru, eu, su, rg, eg, sg);
	gid_t g[200];
	n = getgroups(200, g);
	printf("groups:");
	for (int i = 0; i < n; i++)
		printf(" %d", g[i]);
	printf("\n");
	FILE *f = fopen("/proc/self/status", "r");
	char line[300];
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, "CapEff:", 7) || !strncmp(line, "CapAmb:", 7))
			printf("%.6s: %s", line, strspn(line + 8, "0") >= 16 ? "none\n" : line + 8);
	printf("parent death signal: ");
	int p = -1;
	prctl(PR_GET_PDEATHSIG, &p);
	printf("%d\nend\n", p);
	fflush(stdout);
	forever();
	return 0;
}

static int hostile(int which, char **cmd)
{
	int all = which == 8;
	if (which == 1 || all)
		signal(SIGPIPE, SIG_IGN);
	if (which == 2 || all)
		signal(SIGCHLD, SIG_IGN);
	if (which == 3 || all) {
		unsigned long ignored[4] = {(unsigned long)SIG_IGN};
		signal(SIGHUP, SIG_IGN);
		for (int s = 32; s < 34; s++)
			syscall(SYS_rt_sigaction, s, ignored, 0, 8);
	}
	if (which == 4 || all)
		for (int i = 0; i < 200; i++)
			if (dup(2) < 0)
				break;
	if (which == 6 || all)
		umask(0137);
	if (which == 7 || all) {
		sigset_t m;
		sigfillset(&m);
		sigprocmask(SIG_SETMASK, &m, 0);
	}
	if (which == 5 || all) {
		close(0);
		close(1);
		close(2);
	}
	execvp(cmd[0], cmd);
	return 127;
}

/* ---- processes that are hard to stop ---- */
static char **argv0;

static void helper(const char *file, const char *how, const char *mark)
{
	if (strchr(how, 's'))
		setsid();
	else if (strchr(how, 'g'))
		setpgid(0, 0);
	if (strchr(how, 'd')) {
		if (fork())
			_exit(0);
	}
	if (strchr(how, 't')) {
		signal(SIGTERM, SIG_IGN);
		signal(SIGINT, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
	}
	if (strchr(how, 'c')) {
		close(0);
		close(1);
		close(2);
	}
	char *args[] = {argv0[0], "stamp", (char *)file, (char *)mark, 0};
	char *none[] = {0};
	extern char **environ;
	if (chdir("/"))
		_exit(8);
	/* By its path, which is absolute here: there may be no /proc. */
	execve(argv0[0], args, strchr(how, 'e') ? none : environ);
	_exit(127);
}

static int deny(char *numbers, char **cmd)
{
	struct sock_filter code[66] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	unsigned short n = 1;
	for (char *word = strtok(numbers, ","); word && n < 63; word = strtok(NULL, ",")) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, atoi(word), 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = {n, code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 8;
	execvp(cmd[0], cmd);
	return 127;
}

static int escape(const char *file, const char *how, const char *mark)
{
	pid_t p = fork();
	if (!p)
		helper(file, how, mark);
	if (strchr(how, 'd'))
		waitpid(p, 0, 0);
	if (strchr(how, 'x')) {
		msleep(300);
		return 0;
	}
	forever();
	return 0;
}

static int stubborn(int n)
{
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	while (--n > 0 && !fork())
		if (n % 2)
			setsid();
	printf("stubborn %d\n", (int)getpid());
	fflush(stdout);
	forever();
	return 0;
}

static int refork(const char *file, const char *mark)
{
	sigset_t m;
	int s;
	sigemptyset(&m);
	sigaddset(&m, SIGTERM);
	sigprocmask(SIG_BLOCK, &m, 0);
	for (int round = 0;; round++) {
		stamp(file, mark);
		sigwait(&m, &s);
		if (round > 500)
			return 0;
		if (fork())
			_exit(0);
		setsid();
	}
}

static void bare(char **argv, const char *role, const char *number, const char *mark)
{
	char *args[] = {argv[0], (char *)role, (char *)number, (char *)mark, 0};
	char *none[] = {0};
	setsid();
	if (fork())
		_exit(0);
	close(0);
	close(1);
	close(2);
	execve(argv[0], args, none);
	_exit(127);
}

static int links(long usec)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	time_t end = t.tv_sec + 20;
	signal(SIGTERM, SIG_IGN);
	do {
		pid_t p = fork();
		if (p > 0)
			_exit(0);
		/* No room for one more: try again, as a bomb would. */
		if (!p)
			setsid();
		if (usec)
			usleep(usec);
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while (t.tv_sec < end);
	return 0;
}

static int chain(char **argv)
{
	/* A lock is held for as long as anybody has the descriptor, and a chain always has somebody. */
	int lock = open(argv[3], O_RDWR | O_CREAT, 0666);
	if (lock < 0 || flock(lock, LOCK_EX))
		return 8;
	for (int n = atoi(argv[2]); n > 0; n--) {
		pid_t p = fork();
		if (!p)
			bare(argv, "links", argv[5] ? argv[5] : "0", argv[4]);
		waitpid(p, 0, 0);
	}
	close(lock);
	printf("chained\n");
	fflush(stdout);
	forever();
	return 0;
}

static int swarm(int n)
{
	sigset_t m;
	int s;
	sigemptyset(&m);
	sigaddset(&m, SIGTERM);
	sigprocmask(SIG_BLOCK, &m, 0);
	printf("swarm\n");
	fflush(stdout);
	sigwait(&m, &s);
	signal(SIGTERM, SIG_IGN);
	for (int i = 1; i < n; i++)
		if (!fork()) {
			setsid();
			forever();
		}
	return 0;
}

/* ---- output ---- */
static volatile sig_atomic_t told;
static void tell(int s)
{
	told = s;
}

static void put(const char *b, size_t n)
{
	while (n) {
		ssize_t r = write(1, b, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) {
			dprintf(2, "write: %s\n", strerror(errno));
			forever();
		}
		b += r;
		n -= r;
	}
}

static void count(long from, long lines, size_t block, long usec)
{
	static char b[1 << 20];
	size_t fill = 0;
	for (long i = from; i < from + lines; i++) {
		int n = snprintf(b + fill, 101, "numbered %012ld ", i);
		memset(b + fill + n, 'x', 99 - n);
		b[fill + 99] = '\n';
		fill += 100;
		if (fill >= block || fill + 200 > sizeof b) {
			size_t now = block && block < fill ? block : fill;
			put(b, now);
			memmove(b, b + now, fill - now);
			fill -= now;
			if (usec)
				usleep(usec);
		}
	}
	put(b, fill);
}

/* ---- servers ---- */
static int listener(int port)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, (void *)&a, sizeof a) || listen(s, 50)) {
		dprintf(2, "cannot listen on %d: %s\n", port, strerror(errno));
		exit(5);
	}
	return s;
}

static int server(int port, long ms, const char *file, int speak)
{
	msleep(ms);
	int s = listener(port);
	printf("listening %d\n", port);
	fflush(stdout);
	for (;;) {
		int c = accept(s, 0, 0);
		if (c < 0)
			continue;
		if (speak) {
			char status[64] = "200", in[2000], out[200];
			int fd = open(file, O_RDONLY);
			if (fd >= 0) {
				ssize_t r = read(fd, status, sizeof status - 1);
				status[r > 0 ? r : 0] = 0;
				status[strcspn(status, "\n")] = 0;
				close(fd);
			}
			if (!strcmp(status, "hang"))
				continue;
			if (read(c, in, sizeof in) > 0) {
				int n = snprintf(out, sizeof out, "HTTP/1.0 %s OK\r\nContent-Length: 2\r\n\r\nok", status);
				if (write(c, out, n) < 0)
					continue;
			}
		}
		close(c);
	}
	return 0;
}

static int notify(long ms, char **texts, int flood)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	msleep(ms);
	if (!path) {
		printf("no NOTIFY_SOCKET\n");
		fflush(stdout);
		forever();
	}
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	socklen_t l = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	if (a.sun_path[0] == '@')
		a.sun_path[0] = 0;
	for (; *texts; texts++)
		if (sendto(s, *texts, strlen(*texts), 0, (void *)&a, l) < 0)
			printf("notify: %s\n", strerror(errno));
	while (flood)
		sendto(s, "STATUS=again", 12, 0, (void *)&a, l);
	printf("notified\n");
	fflush(stdout);
	forever();
	return 0;
}

static int signals(const char *file)
{
	sigset_t m;
	int s;
	sigfillset(&m);
	sigprocmask(SIG_SETMASK, &m, 0);
	append(file, "begin\n");
	for (;;) {
		char b[40];
		sigwait(&m, &s);
		snprintf(b, sizeof b, "%s\n", sigabbrev_np(s) ? sigabbrev_np(s) : "RT");
		append(file, b);
		if (s == SIGTERM)
			return 0;
	}
}

/* ---- soak ---- */
struct life {
	unsigned long long number, lines, born, last;
};

static unsigned long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Writes so many lines at once, at most PIPE_BUF bytes: a kill finds all of them in the pipe or none. Then says so, in a
 * file, which outlives a kill too. */
static void account(int fd, struct life *life, const char *name, int lines)
{
	char b[4096];
	for (int i = 0; i < lines; i++) {
		char *line = b + i * 100;
		int n = snprintf(line, 101, "%s %06llu %010llu ", name, life->number, life->lines + i);
		memset(line + n, 'a' + (life->lines + i) % 26, 99 - n);
		line[99] = '\n';
	}
	put(b, lines * 100);
	life->lines += lines;
	life->last = now_ns();
	if (pwrite(fd, life, sizeof *life, life->number * sizeof *life) != sizeof *life)
		_exit(9);
}

static int soak(const char *dir, const char *name, long seed, const char *how)
{
	char path[300];
	struct stat st;
	struct rlimit none = {0, 0};
	struct life life = {0};
	setrlimit(RLIMIT_CORE, &none);
	snprintf(path, sizeof path, "%s/%s.lives", dir, name);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || fstat(fd, &st))
		return 9;
	life.number = st.st_size / sizeof life;
	life.born = life.last = now_ns();
	if (pwrite(fd, &life, sizeof life, life.number * sizeof life) != sizeof life)
		return 9;
	srand(seed * 7919 + life.number * 104729 + getpid());
	if (strchr(how, 't'))
		signal(SIGTERM, tell);
	if (strchr(how, 'i'))
		signal(SIGTERM, SIG_IGN);
	if (strchr(how, 'h') && !fork())
		helper("/dev/null", "sdt", dir);
	for (;;) {
		int flood = strchr(how, 'f') && rand() % 6 == 0;
		for (int i = 0; i < (flood ? 200 : 1) && !told; i++)
			account(fd, &life, name, flood ? 40 : 1 + rand() % 5);
		for (int i = 0; told && i < 20; i++)
			account(fd, &life, name, 40);
		if (told)
			return 0;
		usleep(20000 + rand() % 480000);
		if (strchr(how, 'o') && rand() % 4 == 0 && !fork()) {
			if (!fork())
				usleep(rand() % 50000);
			_exit(0);
		}
		switch (rand() % 150) {
		case 0:
			return 0;
		case 1:
			return rand() % 256;
		case 2:
			raise(SIGKILL);
		case 3:
			raise(SIGSEGV);
		case 4:
			abort();
		}
	}
}

int main(int argc, char **argv)
{
	const char *m = argc > 1 ? argv[1] : "";
	argv0 = argv;
#define IS(name, n) (!strcmp(m, name) && argc >= 2 + (n))
	if (IS("hygiene", 0))
		return hygiene();
	if (IS("hostile", 2))
		return hostile(atoi(argv[2]), argv + 3);
	if (IS("stamp", 2)) {
		stamp(argv[2], argv[3]);
		forever();
	}
	if (IS("flash", 3)) {
		stamp(argv[2], argv[3]);
		if (argc > 5)
			msleep(atol(argv[5]));
		return atoi(argv[4]);
	}
	if (IS("escape", 3))
		return escape(argv[2], argv[3], argv[4]);
	if (IS("gate", 2)) {
		char c;
		int fd = open(argv[2], O_RDONLY);
		while (fd >= 0 && read(fd, &c, 1) > 0)
			;
		return fd < 0 ? 9 : atoi(argv[3]);
	}
	if (IS("stubborn", 1))
		return stubborn(atoi(argv[2]));
	if (IS("refork", 2))
		return refork(argv[2], argv[3]);
	if (IS("chain", 3))
		return chain(argv);
	if (IS("links", 2))
		return links(atol(argv[2]));
	if (IS("swarm", 2))
		return swarm(atoi(argv[2]));
	if (IS("onterm", 1)) {
		signal(SIGTERM, tell);
		printf("waiting\n");
		fflush(stdout);
		while (!told)
			usleep(1000);
		count(0, atol(argv[2]), 0, 0);
		return 0;
	}
	if (IS("count", 1)) {
		count(0, atol(argv[2]), argc > 3 ? atol(argv[3]) : 0, argc > 4 ? atol(argv[4]) : 0);
		forever();
	}
	if (IS("countexit", 2)) {
		count(0, atol(argv[2]), 0, 0);
		return atoi(argv[3]);
	}
	if (IS("notify", 2))
		return notify(atol(argv[2]), argv + 3, 0);
	if (IS("notifyflood", 0))
		return notify(0, (char *[]){"READY=1", 0}, 1);
	if (IS("http", 3))
		return server(atoi(argv[2]), atol(argv[3]), argv[4], 1);
	if (IS("tcp", 2))
		return server(atoi(argv[2]), atol(argv[3]), 0, 0);
	if (IS("orphans", 1)) {
		for (long i = 0; i < atol(argv[2]); i++) {
			pid_t p = fork();
			if (!p) {
				if (!fork()) {
					usleep(i % 7 * 100);
					_exit(i % 200);
				}
				_exit(0);
			}
			while (p > 0 && waitpid(p, 0, 0) < 0 && errno == EINTR)
				;
		}
		printf("done\n");
		fflush(stdout);
		forever();
	}
	if (IS("deny", 2))
		return deny(argv[2], argv + 3);
	if (IS("signals", 1))
		return signals(argv[2]);
	if (IS("raise", 1)) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		raise(atoi(argv[2]));
		return 1;
	}
	if (IS("openout", 0)) {
		FILE *o = fopen("/dev/stdout", "a"), *e = fopen("/dev/stderr", "a");
		if (o)
			fprintf(o, "by path to stdout\n"), fflush(o);
		else
			dprintf(1, "cannot open /dev/stdout: %s\n", strerror(errno));
		if (e)
			fprintf(e, "by path to stderr\n"), fflush(e);
		else
			dprintf(1, "cannot open /dev/stderr: %s\n", strerror(errno));
		forever();
	}
	if (IS("show", 1)) {
		char b[4096];
		ssize_t r;
		int fd = open(argv[2], O_RDONLY);
		if (fd < 0) {
			dprintf(2, "cannot open %s: %s\n", argv[2], strerror(errno));
			return 1;
		}
		while ((r = read(fd, b, sizeof b)) > 0)
			put(b, r);
		return r < 0;
	}
	if (IS("stopself", 0)) {
		raise(SIGSTOP);
		forever();
	}
	if (IS("eat", 1)) {
		size_t n = atol(argv[2]) << 20;
		/* volatile: the compiler must not find out that nobody reads it. */
		volatile char *p = malloc(n);
		if (!p)
			return 6;
		for (size_t i = 0; i < n; i += 4096)
			p[i] = 1;
		printf("full\n");
		fflush(stdout);
		forever();
	}
	if (IS("soak", 4))
		return soak(argv[2], argv[3], atol(argv[4]), argv[5]);
	if (IS("setuid0", 2)) {
		if (setresuid(0, 0, 0) || setresgid(0, 0, 0))
			return 7;
		signal(SIGTERM, SIG_IGN);
		stamp(argv[2], argv[3]);
		forever();
	}
	dprintf(2, "prop: what is %s?\n", m);
	return 2;
}
