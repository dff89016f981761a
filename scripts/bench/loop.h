/*
 * Readiness of many sockets and one timer, on epoll (Linux) and kqueue (macOS, BSD).
 *
 * Every function is static: the two programs are single files, built with one call of cc each.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(BENCH_KQUEUE)
#include <sys/epoll.h>
#include <sys/timerfd.h>
#else
#include <sys/types.h>

#include <sys/event.h>
#include <sys/time.h>
#define LOOP_KQUEUE 1
#endif

#define LOOP_EVENTS 1024
#define LOOP_FOREVER UINT64_MAX

/* Something is ready; `owner` is what the socket was added with. */
typedef struct {
    void *owner;
    int readable;
    int writable;
} ready_t;

typedef struct {
    int fd;
    int timer;
    uint64_t armed;
    ready_t ready[LOOP_EVENTS];
} loop_t;

/* Monotonic time in nanoseconds; one clock for all processes of a machine. */
static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

#ifndef LOOP_KQUEUE

static void loop_control(loop_t *loop, int operation, int fd, void *owner, int writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0u), .data.ptr = owner};
    if (epoll_ctl(loop->fd, operation, fd, &event) != 0) die("epoll_ctl");
}

static void loop_open(loop_t *loop) {
    loop->fd = epoll_create1(0);
    /* epoll counts in milliseconds; the pace of a stream needs finer steps. */
    loop->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (loop->fd < 0 || loop->timer < 0) die("epoll");
    loop->armed = LOOP_FOREVER;
    loop_control(loop, EPOLL_CTL_ADD, loop->timer, loop, 0);
}

static void loop_add(loop_t *loop, int fd, void *owner, int writing) {
    loop_control(loop, EPOLL_CTL_ADD, fd, owner, writing);
}

static void loop_writing(loop_t *loop, int fd, void *owner, int writing) {
    loop_control(loop, EPOLL_CTL_MOD, fd, owner, writing);
}

/* Wait until something is ready or the clock shows `until`; returns how many entries of `ready` are filled. */
static int loop_wait(loop_t *loop, uint64_t until) {
    struct epoll_event events[LOOP_EVENTS];
    if (loop->armed != until) {
        struct itimerspec at = {0};
        if (until != LOOP_FOREVER) {
            at.it_value.tv_sec = (time_t)(until / 1000000000u);
            at.it_value.tv_nsec = (long)(until % 1000000000u) + (until == 0);
        }
        if (timerfd_settime(loop->timer, TFD_TIMER_ABSTIME, &at, NULL) != 0) die("timerfd_settime");
        loop->armed = until;
    }
    int found = epoll_wait(loop->fd, events, LOOP_EVENTS, -1);
    if (found < 0 && errno != EINTR) die("epoll_wait");
    int filled = 0;
    for (int i = 0; i < found; i++) {
        if (events[i].data.ptr == loop) {
            uint64_t expirations;
            if (read(loop->timer, &expirations, sizeof expirations) > 0) loop->armed = LOOP_FOREVER;
            continue;
        }
        ready_t *one = &loop->ready[filled++];
        one->owner = events[i].data.ptr;
        one->readable = (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
        one->writable = (events[i].events & EPOLLOUT) != 0;
    }
    return filled;
}

#else

static void loop_change(loop_t *loop, int fd, int filter, int flags, void *owner) {
    struct kevent change;
    EV_SET(&change, (uintptr_t)fd, filter, flags, 0, 0, owner);
    if (kevent(loop->fd, &change, 1, NULL, 0, NULL) != 0 && !((flags & EV_DELETE) && errno == ENOENT)) die("kevent");
}

static void loop_open(loop_t *loop) {
    loop->fd = kqueue();
    if (loop->fd < 0) die("kqueue");
}

static void loop_writing(loop_t *loop, int fd, void *owner, int writing) {
    loop_change(loop, fd, EVFILT_WRITE, writing ? EV_ADD : EV_DELETE, owner);
}

static void loop_add(loop_t *loop, int fd, void *owner, int writing) {
    loop_change(loop, fd, EVFILT_READ, EV_ADD, owner);
    if (writing) loop_writing(loop, fd, owner, 1);
}

/* As above; kqueue tells readable and writable in entries of their own. */
static int loop_wait(loop_t *loop, uint64_t until) {
    struct kevent events[LOOP_EVENTS];
    struct timespec span, *wait = NULL;
    if (until != LOOP_FOREVER) {
        uint64_t now = now_ns(), left = until > now ? until - now : 0;
        span.tv_sec = (time_t)(left / 1000000000u);
        span.tv_nsec = (long)(left % 1000000000u);
        wait = &span;
    }
    int found = kevent(loop->fd, NULL, 0, events, LOOP_EVENTS, wait);
    if (found < 0 && errno != EINTR) die("kevent");
    for (int i = 0; i < found; i++) {
        loop->ready[i].owner = (void *)events[i].udata;
        loop->ready[i].readable = events[i].filter == EVFILT_READ;
        loop->ready[i].writable = events[i].filter == EVFILT_WRITE;
    }
    return found < 0 ? 0 : found;
}

#endif
#endif
