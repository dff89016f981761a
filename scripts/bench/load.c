/*
 * A load generator for OpenAI-compatible gateways in front of `mock`: asks, checks every answer, prints one JSON line.
 *
 *   load -P PORT -b BODY_FILE [-p PATH] [-c CONNECTIONS] [-d SECONDS] [-n REQUESTS] [-r RATE] [-s CHUNKS]
 *        [-H 'name: value']... [-g GRACE_SECONDS] [-o]
 *
 * One thread, HTTP/1.1 with keep-alive, 127.0.0.1 only. It is a closed loop (each connection asks again as soon as it
 * has been answered) for SECONDS or REQUESTS, whichever ends first; with -r an open loop, whose latencies count from
 * the moment at which a request was due, so that a stall is charged to every request that it delays. With -o all
 * connections are opened first, slowly enough for any server's queue of new ones.
 *
 * An answer counts as good only if its status is 200 and it is whole: JSON that is balanced and holds the mock's
 * words; with -s a stream of events whose chunks are all there, in order, and which ends with [DONE]. Everything
 * else is an error, told by kind. After ERROR_LIMIT errors no more is asked.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "check.h"
#include "http.h"
#include "loop.h"

#define HEAD_LIMIT 16384
#define ERROR_LIMIT 1000

typedef enum { IDLE, SENDING, AWAITING_HEAD, READING_BODY } state_t;

typedef struct {
    int fd; /* -1: not connected */
    int writing;
    state_t state;
    uint64_t began; /* ns; in an open loop the time at which it was due */
    size_t sent;
    char head[HEAD_LIMIT];
    size_t head_length;
    int status;
    int closing;
    body_t body;
    int begun; /* whether a byte of the body has come */
    check_t check;
} connection_t;

enum { BY_STATUS, BY_CONNECTION, BY_CONTENT, BY_TIME, KINDS };
static const char *const KIND_NAMES[KINDS] = {"status", "connection", "content", "timeout"};

static loop_t loop;
static int port, expected_chunks;
static char *request;
static size_t request_length;
static double rate;
static uint64_t most_requests, begin, end;
static connection_t *pool;
static int connection_count = 1, *idle, idle_count;
static uint64_t issued, in_flight, most_in_flight, good, errors[KINDS], bytes_read, last_end;
static char first_error[200];
static samples_t latency, first_byte, chunk_delay;

/* --- asking -------------------------------------------------------------------------------- */

static uint64_t error_count(void) {
    uint64_t sum = 0;
    for (int kind = 0; kind < KINDS; kind++) sum += errors[kind];
    return sum;
}

static int exhausted(void) {
    return (most_requests > 0 && issued >= most_requests) || error_count() >= ERROR_LIMIT;
}

static void hang_up(connection_t *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->writing = 0;
}

static void watch_writing(connection_t *c, int writing) {
    if (c->writing == writing) return;
    c->writing = writing;
    loop_writing(&loop, c->fd, c, writing);
}

/* Write on; a failure shows when the answer is read. */
static void push(connection_t *c) {
    while (c->sent < request_length) {
        ssize_t sent = send(c->fd, request + c->sent, request_length - c->sent, MSG_NOSIGNAL);
        if (sent > 0) {
            c->sent += (size_t)sent;
        } else {
            watch_writing(c, errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS);
            return;
        }
    }
    watch_writing(c, 0);
    if (c->state == SENDING) c->state = AWAITING_HEAD;
}

static void dial(connection_t *c) {
    struct sockaddr_in address = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("load: socket");
    tune(c->fd);
    connect(c->fd, (struct sockaddr *)&address, sizeof address); /* a refusal shows as a failed read */
    c->writing = 1;
    loop_add(&loop, c->fd, c, 1);
}

static void ask(connection_t *c, uint64_t began) {
    c->state = SENDING;
    c->began = began;
    c->sent = c->head_length = 0;
    c->status = c->closing = c->begun = 0;
    issued++;
    if (++in_flight > most_in_flight) most_in_flight = in_flight;
    if (c->fd >= 0) {
        push(c);
        return;
    }
    dial(c);
}

static void note_error(connection_t *c, int kind, const char *what) {
    errors[kind]++;
    if (first_error[0] != '\0') return;
    int length = snprintf(first_error, sizeof first_error, "%s", what);
    if (kind == BY_STATUS) {
        length = snprintf(first_error, sizeof first_error, "%s %d: %.*s", what, c->status,
                          (int)(c->check.length < 120 ? c->check.length : 120), c->check.text);
    }
    for (int i = 0; i < length && i < (int)sizeof first_error; i++) {
        if (first_error[i] == '"' || first_error[i] == '\\') first_error[i] = '\'';
        if ((unsigned char)first_error[i] < ' ' && first_error[i] != '\0') first_error[i] = ' ';
        if ((unsigned char)first_error[i] > '~') first_error[i] = '?';
    }
}

static void finish(connection_t *c, const char *broken) {
    uint64_t now = now_ns();
    in_flight--;
    last_end = now;
    int fine = 0;
    if (c->status != 0 && c->status != 200) {
        note_error(c, BY_STATUS, "status");
    } else if (broken != NULL) {
        note_error(c, BY_CONNECTION, broken);
    } else if ((broken = check_end(&c->check)) != NULL) {
        note_error(c, BY_CONTENT, broken);
    } else {
        fine = 1;
        good++;
        add_sample(&latency, now - c->began);
    }
    c->state = IDLE;
    if (!fine || c->closing || c->sent < request_length) hang_up(c);
    if (rate > 0) {
        idle[idle_count++] = (int)(c - pool);
    } else if (now < end && !exhausted()) {
        ask(c, now);
    }
}

/* Read a head from `at`; returns where the body starts, NULL where more is needed or the answer has ended. */
static const char *read_head(connection_t *c, const char *at, const char *stop) {
    size_t before = c->head_length, length = (size_t)(stop - at), room = HEAD_LIMIT - 1 - before;
    if (length > room) length = room;
    memcpy(c->head + before, at, length);
    c->head_length += length;
    char *blank = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (blank == NULL) {
        if (c->head_length >= HEAD_LIMIT - 1) finish(c, "a head that does not end");
        return NULL;
    }
    blank[2] = '\0';
    at += (size_t)(blank + 4 - c->head) - before;
    c->status = strncmp(c->head, "HTTP/1.", 7) == 0 ? atoi(c->head + 9) : 1;
    if (c->status >= 100 && c->status < 200) { /* interim: the answer is still to come */
        c->status = 0;
        c->head_length = 0;
        return at < stop ? read_head(c, at, stop) : NULL;
    }
    c->closing = field_is(c->head, "connection", "close");
    body_start(&c->body, c->head, BODY_TO_CLOSE);
    check_start(&c->check, c->status == 200 ? expected_chunks : 0);
    c->state = READING_BODY;
    return at;
}

static void feed(connection_t *c, const char *at, const char *stop, uint64_t now) {
    const char *piece;
    size_t length;
    if (c->state != READING_BODY && (at = read_head(c, at, stop)) == NULL) return;
    while ((length = body_take(&c->body, &at, stop, &piece)) > 0) {
        if (!c->begun) add_sample(&first_byte, now - c->began);
        c->begun = 1;
        check_piece(&c->check, piece, length, now, &chunk_delay);
    }
    if (c->body.complete && at < stop) c->check.fault = "more than an answer";
    if (c->body.complete || c->body.broken || c->check.fault != NULL)
        finish(c, c->body.broken ? "broken framing" : NULL);
}

static void on_readable(connection_t *c) {
    static char buffer[1 << 18];
    while (c->fd >= 0) {
        ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
        if (got < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
        if (c->state == IDLE) { /* closed while nothing was asked, which is no error */
            hang_up(c);
            return;
        }
        if (got <= 0) {
            int whole = got == 0 && c->state == READING_BODY && c->body.framing == BODY_TO_CLOSE;
            c->closing = 1;
            finish(c, whole ? NULL : got < 0 ? "reset" : "closed before the answer's end");
            return;
        }
        bytes_read += (uint64_t)got;
        feed(c, buffer, buffer + got, now_ns());
        if (got < (ssize_t)sizeof buffer) return;
    }
}

/* --- the run ------------------------------------------------------------------------------- */

static void print_result(void) {
    double seconds = (double)(last_end > begin ? last_end - begin : 1) / 1e9;
    printf("{\"good\":%llu,\"errors\":%llu,\"issued\":%llu,\"seconds\":%.4f,\"rate\":%.1f,\"chunks\":%llu,"
           "\"most_in_flight\":%llu,\"bytes\":%llu,\"first_error\":\"%s\",\"error_kinds\":{",
           (unsigned long long)good, (unsigned long long)error_count(), (unsigned long long)issued, seconds,
           (double)good / seconds, (unsigned long long)chunk_delay.count, (unsigned long long)most_in_flight,
           (unsigned long long)bytes_read, first_error);
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s\"%s\":%llu", kind ? "," : "", KIND_NAMES[kind], (unsigned long long)errors[kind]);
    printf("}");
    print_samples("latency_us", &latency);
    print_samples("first_byte_us", &first_byte);
    print_samples("chunk_delay_us", &chunk_delay);
    printf("}\n");
}

/* Ask what is due in an open loop; returns when the next one is, as far as a connection is free for it. */
static uint64_t ask_what_is_due(uint64_t now) {
    static uint64_t asked;
    for (;;) {
        uint64_t due = begin + (uint64_t)((double)asked * 1e9 / rate);
        if (due >= end || exhausted() || idle_count == 0) return LOOP_FOREVER;
        if (due > now) return due;
        asked++;
        ask(&pool[idle[--idle_count]], due);
    }
}

/* A server's queue of new connections is short: what finds it full waits for TCP's second try, a second later. */
static void open_all(void) {
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    for (int i = 0; i < connection_count; i++) {
        dial(&pool[i]);
        if (i % 100 == 99 || i == connection_count - 1) nanosleep(&pause, NULL);
    }
}

static void run(double grace) {
    uint64_t patience = end + (uint64_t)(grace * 1e9);
    for (int i = 0; i < connection_count; i++) {
        if (rate > 0) idle[idle_count++] = connection_count - 1 - i;
        else if (!exhausted()) ask(&pool[i], now_ns());
    }
    for (;;) {
        uint64_t now = now_ns(), until = rate > 0 ? ask_what_is_due(now) : LOOP_FOREVER;
        if (in_flight == 0 && (now >= end || exhausted())) return;
        if (now >= patience) break;
        if (now < end && until > end) until = end;
        if (until > patience) until = patience;
        int found = loop_wait(&loop, until);
        for (int i = 0; i < found; i++) {
            ready_t *ready = &loop.ready[i];
            connection_t *c = ready->owner;
            if (ready->writable && c->fd >= 0 && c->sent < request_length && c->state != IDLE) push(c);
            if (ready->readable && c->fd >= 0) on_readable(c);
        }
    }
    for (int i = 0; i < connection_count; i++)
        if (pool[i].state != IDLE) note_error(&pool[i], BY_TIME, "no end of the answer in time");
    last_end = now_ns();
}

static void make_request(const char *path, const char *headers, const char *body_file) {
    FILE *file = fopen(body_file, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) die(body_file);
    size_t length = (size_t)ftell(file), room = length + strlen(path) + strlen(headers) + 256;
    rewind(file);
    request = malloc(room);
    if (request == NULL) die("malloc");
    int head = snprintf(request, room,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\n"
                        "User-Agent: bench\r\n%sContent-Length: %zu\r\n\r\n",
                        path, port, headers, length);
    if (fread(request + head, 1, length, file) != length) die(body_file);
    fclose(file);
    request_length = (size_t)head + length;
}

int main(int count, char **arguments) {
    const char *path = "/v1/chat/completions", *body_file = NULL;
    char headers[4096] = "";
    double seconds = 1, grace = 30;
    int option, open_first = 0;
    while ((option = getopt(count, arguments, "P:p:b:c:d:n:r:s:H:g:o")) > 0) {
        size_t used = strlen(headers);
        switch (option) {
        case 'P': port = atoi(optarg); break;
        case 'p': path = optarg; break;
        case 'b': body_file = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'n': most_requests = strtoull(optarg, NULL, 10); break;
        case 'r': rate = atof(optarg); break;
        case 's': expected_chunks = atoi(optarg); break;
        case 'H': snprintf(headers + used, sizeof headers - used, "%s\r\n", optarg); break;
        case 'g': grace = atof(optarg); break;
        case 'o': open_first = 1; break;
        default: return 2;
        }
    }
    if (port <= 0 || body_file == NULL || connection_count < 1) {
        fprintf(stderr, "usage: load -P PORT -b BODY_FILE [options]; see the head of load.c\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    make_request(path, headers, body_file);
    pool = calloc((size_t)connection_count, sizeof *pool);
    idle = malloc(sizeof *idle * (size_t)connection_count);
    if (pool == NULL || idle == NULL) die("malloc");
    for (int i = 0; i < connection_count; i++) pool[i].fd = -1;
    loop_open(&loop);
    if (open_first) open_all();
    begin = last_end = now_ns();
    end = begin + (uint64_t)(seconds * 1e9);
    run(grace);
    print_result();
    return 0;
}
