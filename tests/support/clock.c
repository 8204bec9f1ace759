/* A wall clock that steps: preloaded, it adds the seconds in the file named by CLOCK_STEP to CLOCK_REALTIME and to
 * nothing else. So one process can live through what would need a machine of its own. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long step(void)
{
	char b[40] = "";
	const char *path = getenv("CLOCK_STEP");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return 0;
	if (read(fd, b, sizeof b - 1) < 0)
		b[0] = 0;
	close(fd);
	return atoll(b);
}

int clock_gettime(clockid_t which, struct timespec *t)
{
	int r = syscall(SYS_clock_gettime, which, t);
	if (!r && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
		t->tv_sec += step();
	return r;
}

int gettimeofday(struct timeval *restrict v, void *restrict zone)
{
	struct timespec t;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &t);
	v->tv_sec = t.tv_sec;
	v->tv_usec = t.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *to)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	if (to)
		*to = t.tv_sec;
	return t.tv_sec;
}
