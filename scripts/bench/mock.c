/*
 * An upstream that answers as an OpenAI-compatible server does, at next to no cost of its own.
 *
 *   mock PORT
 *
 * One thread, HTTP/1.1 with keep-alive, 127.0.0.1 only.
 *   POST .../completions   one JSON answer, or with "stream": true a stream of events
 *   GET  .../models        one model, `mock-model`
 *   GET  /stats            {"requests", "streams", "open_streams", "bytes_in", "connections"}
 *   anything else          {"status": "ok"}
 *
 * A stream is paced by a text "pace:MICROSECONDS:CHUNKS" anywhere in the request's body; otherwise it is 64 chunks as
 * fast as the reader takes them. As vLLM does, the event with the role and the first chunk leave together. Every
 * chunk is one write and holds "@TIME#INDEX": the monotonic clock in tenths of a microsecond, 16 digits, and the
 * number of the chunk, 5 digits; so that its reader knows how long it took, and that none is lost or out of order.
 * "include_usage": true adds the event with the usage. Flags are looked for in the first 64 KiB of a body; the rest
 * is counted and dropped.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include "answer.h"
#include "http.h"
#include "loop.h"

#define HEAD_LIMIT 16384
#define LOOK_LIMIT 65536
#define DEFAULT_CHUNKS 64
#define EVENT                                                                                             \
    "data: {\"id\":\"chatcmpl-5b0e6f1c2d3a4b5c6d7e8f90\",\"object\":\"chat.completion.chunk\","            \
    "\"created\":1760000000,\"model\":\"" MODEL "\","
#define USAGE "{\"prompt_tokens\":42,\"completion_tokens\":57,\"total_tokens\":99}"

typedef struct connection {
    int fd;
    int writing; /* whether the loop watches for room to write */
    int closing; /* close once all is written */
    int dead;
    char head[HEAD_LIMIT];
    size_t head_length;
    int in_body;
    body_t body;
    char *look; /* the first bytes of the body */
    size_t look_length;
    char *out;
    size_t out_start, out_end, out_size;
    int streaming;
    int chunks, next_chunk; /* of the present stream */
    int with_usage;
    uint64_t due, pace; /* ns; pace 0: as fast as the reader takes them */
    struct connection *before, *after;
} connection_t;

static loop_t loop;
static int listener;
static connection_t paced = {.before = &paced, .after = &paced}; /* streams that wait, the next one first */
static connection_t *buried; /* closed ones, kept until no event of this round can name them */
static uint64_t requests, streams, open_streams, bytes_in, connections;

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-5b0e6f1c2d3a4b5c6d7e8f90\",\"object\":\"chat.completion\",\"created\":1760000000,"
    "\"model\":\"" MODEL "\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"" ANSWER_TEXT "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":" USAGE "}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\",\"created\":1760000000,"
    "\"owned_by\":\"mock\",\"max_model_len\":32768}]}";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "transfer-encoding: chunked\r\n\r\n";
static const char FIRST_EVENT[] =
    EVENT "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
static const char LAST_EVENT[] = EVENT "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
static const char USAGE_EVENT[] = EVENT "\"choices\":[],\"usage\":" USAGE "}\n\n";
static const char DONE_EVENT[] = "data: [DONE]\n\n";

/* --- writing ------------------------------------------------------------------------------- */

static void watch_writing(connection_t *c, int writing) {
    if (c->writing == writing) return;
    c->writing = writing;
    loop_writing(&loop, c->fd, c, writing);
}

static void forget_pace(connection_t *c) {
    if (c->before == NULL) return;
    c->before->after = c->after;
    c->after->before = c->before;
    c->before = c->after = NULL;
}

static void drop(connection_t *c) {
    if (c->dead) return;
    forget_pace(c);
    open_streams -= (uint64_t)c->streaming;
    connections--;
    close(c->fd);
    c->dead = 1;
    c->after = buried;
    buried = c;
}

static void put(connection_t *c, const char *bytes, size_t length) {
    if (c->out_start == c->out_end) c->out_start = c->out_end = 0;
    if (c->out_end + length > c->out_size) {
        c->out_size = (c->out_end + length) * 2;
        c->out = realloc(c->out, c->out_size);
        if (c->out == NULL) die("realloc");
    }
    memcpy(c->out + c->out_end, bytes, length);
    c->out_end += length;
}

/* Put an event as one HTTP chunk. */
static void put_event(connection_t *c, const char *event) {
    char size[16];
    put(c, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", strlen(event)));
    put(c, event, strlen(event));
    put(c, "\r\n", 2);
}

/* Write what there is; returns whether all of it is gone. */
static int flush(connection_t *c) {
    while (c->out_start < c->out_end) {
        ssize_t sent = send(c->fd, c->out + c->out_start, c->out_end - c->out_start, MSG_NOSIGNAL);
        if (sent > 0) {
            c->out_start += (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            watch_writing(c, 1);
            return 0;
        } else {
            drop(c);
            return 0;
        }
    }
    watch_writing(c, 0);
    if (c->closing && !c->streaming) {
        drop(c);
        return 0;
    }
    return 1;
}

static void answer(connection_t *c, const char *json) {
    char head[160];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
                          strlen(json));
    put(c, head, (size_t)length);
    put(c, json, strlen(json));
    flush(c);
}

/* --- streams ------------------------------------------------------------------------------- */

static void put_chunk(connection_t *c) {
    char event[512];
    snprintf(event, sizeof event,
             EVENT "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" @%016llu#%05d\"},\"finish_reason\":null}]}\n\n",
             (unsigned long long)(now_ns() / 100), c->next_chunk++);
    put_event(c, event);
    if (c->next_chunk < c->chunks) return;
    put_event(c, LAST_EVENT);
    if (c->with_usage) put_event(c, USAGE_EVENT);
    put_event(c, DONE_EVENT);
    put(c, "0\r\n\r\n", 5);
    c->streaming = 0;
    open_streams--;
}

/* Line up by the time that is due; streams of one test share a pace, so the place is near the end. */
static void line_up(connection_t *c) {
    connection_t *last = paced.before;
    while (last != &paced && last->due > c->due) last = last->before;
    c->before = last;
    c->after = last->after;
    last->after->before = c;
    last->after = c;
}

/* One write for each chunk, so that a gateway sees them come one by one. */
static void run_unpaced(connection_t *c) {
    while (c->streaming && flush(c)) put_chunk(c);
    if (!c->dead) flush(c);
}

static void start_stream(connection_t *c) {
    const char *pace = memmem(c->look, c->look_length, "pace:", 5);
    streams++;
    open_streams++;
    c->streaming = 1;
    c->next_chunk = 0;
    c->chunks = DEFAULT_CHUNKS;
    c->pace = 0;
    c->with_usage = memmem(c->look, c->look_length, "\"include_usage\":true", 20) != NULL ||
                    memmem(c->look, c->look_length, "\"include_usage\": true", 21) != NULL;
    if (pace != NULL) {
        char *rest;
        c->pace = strtoull(pace + 5, &rest, 10) * 1000;
        if (*rest == ':') c->chunks = atoi(rest + 1);
        if (c->chunks < 1) c->chunks = 1;
    }
    put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    put_event(c, FIRST_EVENT);
    if (c->pace == 0) {
        run_unpaced(c);
        return;
    }
    put_chunk(c);
    if (c->streaming) {
        c->due = now_ns() + c->pace;
        line_up(c);
    }
    flush(c);
}

static void send_due_chunks(void) {
    uint64_t now = now_ns();
    while (paced.after != &paced && paced.after->due <= now) {
        connection_t *c = paced.after;
        forget_pace(c);
        put_chunk(c);
        if (c->streaming) {
            c->due += c->pace; /* the schedule stands, however late this chunk is */
            line_up(c);
        }
        flush(c);
    }
}

/* --- requests ------------------------------------------------------------------------------ */

static int path_has(const connection_t *c, const char *part) {
    const char *end = strstr(c->head, "\r\n");
    const char *found = strstr(c->head, part);
    return found != NULL && found < end;
}

static void respond(connection_t *c) {
    requests++;
    c->in_body = 0;
    c->head_length = 0;
    c->closing = field_is(c->head, "connection", "close");
    if (strncmp(c->head, "POST", 4) == 0 && path_has(c, "completions")) {
        int streamed = memmem(c->look, c->look_length, "\"stream\":true", 13) != NULL ||
                       memmem(c->look, c->look_length, "\"stream\": true", 14) != NULL;
        streamed ? start_stream(c) : answer(c, ANSWER);
    } else if (path_has(c, "/stats")) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"requests\":%llu,\"streams\":%llu,\"open_streams\":%llu,\"bytes_in\":%llu,\"connections\":%llu}",
                 (unsigned long long)requests, (unsigned long long)streams, (unsigned long long)open_streams,
                 (unsigned long long)bytes_in, (unsigned long long)connections);
        answer(c, text);
    } else {
        answer(c, path_has(c, "/models") ? MODELS : "{\"status\":\"ok\"}");
    }
}

/* Read a head from `at`; returns where its body starts, NULL where more is needed or the connection is gone. */
static const char *read_head(connection_t *c, const char *at, const char *end) {
    size_t room = HEAD_LIMIT - 1 - c->head_length, length = (size_t)(end - at), before = c->head_length;
    if (length > room) length = room;
    memcpy(c->head + before, at, length);
    c->head_length += length;
    char *blank = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (blank == NULL) {
        if (c->head_length >= HEAD_LIMIT - 1) drop(c);
        return NULL;
    }
    blank[2] = '\0';
    if (field_is(c->head, "expect", "100-continue")) {
        put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        flush(c);
    }
    body_start(&c->body, c->head, BODY_LENGTH);
    c->in_body = 1;
    c->look_length = 0;
    return at + (blank + 4 - c->head - (ptrdiff_t)before);
}

static void feed(connection_t *c, const char *at, const char *end) {
    while (!c->dead) {
        if (!c->in_body) {
            if (at == end) return;
            if (c->streaming) { /* a request before the answer's end: nobody here pipelines */
                drop(c);
                return;
            }
            at = read_head(c, at, end);
            if (at == NULL) return;
        }
        const char *piece;
        size_t length;
        while ((length = body_take(&c->body, &at, end, &piece)) > 0) {
            size_t room = LOOK_LIMIT - c->look_length;
            if (length > room) length = room;
            memcpy(c->look + c->look_length, piece, length);
            c->look_length += length;
        }
        if (c->body.broken) drop(c);
        if (!c->body.complete) return;
        respond(c);
    }
}

static void on_readable(connection_t *c) {
    static char buffer[1 << 18];
    while (!c->dead) {
        ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            drop(c);
            return;
        }
        bytes_in += (uint64_t)got;
        feed(c, buffer, buffer + got);
        if (got < (ssize_t)sizeof buffer) return;
    }
}

static void accept_all(void) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) return;
        connection_t *c = calloc(1, sizeof *c);
        if (c == NULL || (c->look = malloc(LOOK_LIMIT)) == NULL) die("malloc");
        c->fd = fd;
        tune(fd);
        connections++;
        loop_add(&loop, fd, c, 0);
    }
}

static void bury(void) {
    while (buried != NULL) {
        connection_t *c = buried;
        buried = c->after;
        free(c->look);
        free(c->out);
        free(c);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* a runner that is killed leaves no server behind */
#endif
    raise_file_limit();
    int one = 1;
    struct sockaddr_in address = loopback(atoi(arguments[1]));
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) die("mock: bind");
    if (listen(listener, 4096) != 0) die("mock: listen");
    fcntl(listener, F_SETFL, O_NONBLOCK);
    loop_open(&loop);
    loop_add(&loop, listener, &listener, 0);
    for (;;) {
        int found = loop_wait(&loop, paced.after == &paced ? LOOP_FOREVER : paced.after->due);
        for (int i = 0; i < found; i++) {
            ready_t *ready = &loop.ready[i];
            connection_t *c = ready->owner;
            if (ready->owner == &listener) {
                accept_all();
                continue;
            }
            if (ready->writable && !c->dead) c->streaming && c->pace == 0 ? run_unpaced(c) : (void)flush(c);
            if (ready->readable && !c->dead) on_readable(c);
        }
        send_due_chunks();
        bury();
    }
}
