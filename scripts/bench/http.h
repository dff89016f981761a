/*
 * The parts of HTTP/1.1 that mock and load share: sockets, heads, and finding the end of a body.
 */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* both programs ignore SIGPIPE, which is what counts */
#endif

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        limit.rlim_cur = 10240; /* the most that macOS takes where the hard limit is unlimited */
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* Small writes leave at once, and no call blocks. */
static void tune(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
}

/* Where the value of a field starts in a head that ends with a NUL; NULL where it has no such field. */
static const char *field(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) != 0 || line[length] != ':') continue;
        const char *value = line + length + 1;
        while (*value == ' ' || *value == '\t') value++;
        return value;
    }
    return NULL;
}

static int field_is(const char *head, const char *name, const char *value) {
    const char *found = field(head, name);
    return found != NULL && strncasecmp(found, value, strlen(value)) == 0;
}

/* Where a message's body ends. */
typedef enum { BODY_LENGTH, BODY_CHUNKED, BODY_TO_CLOSE } framing_t;
typedef enum { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER } chunk_state_t;

typedef struct {
    framing_t framing;
    int64_t left; /* bytes of the body, or of the present chunk, that have not come yet */
    chunk_state_t state;
    int digits;       /* of the size that is being read */
    int trailer_line; /* bytes of the trailer line that is being read */
    int complete;
    int broken;
} body_t;

static void body_start(body_t *body, const char *head, framing_t without_length) {
    const char *length = field(head, "content-length");
    memset(body, 0, sizeof *body);
    if (field_is(head, "transfer-encoding", "chunked")) {
        body->framing = BODY_CHUNKED;
    } else if (length != NULL) {
        body->left = atoll(length);
        body->complete = body->left == 0;
    } else {
        body->framing = without_length;
        body->complete = without_length == BODY_LENGTH;
    }
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of what stands between the data of two chunks. */
static void chunk_byte(body_t *body, char c) {
    switch (body->state) {
    case CHUNK_SIZE:
        if (hex_digit(c) >= 0 && body->digits < 15) {
            body->left = body->left * 16 + hex_digit(c);
            body->digits++;
            return;
        }
        body->broken |= body->digits == 0 || (c != '\r' && c != '\n' && c != ';');
        body->state = CHUNK_EXTENSION; /* falls through: this byte may end the line */
        /* fall through */
    case CHUNK_EXTENSION:
        if (c != '\n') return;
        body->state = body->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
        body->trailer_line = 0;
        return;
    case CHUNK_DATA_END:
        body->broken |= c != '\r' && c != '\n';
        if (c != '\n') return;
        body->state = CHUNK_SIZE;
        body->digits = 0;
        return;
    case CHUNK_TRAILER:
        if (c == '\n') {
            body->complete = body->trailer_line == 0;
            body->trailer_line = 0;
        } else if (c != '\r') {
            body->trailer_line++;
        }
        return;
    case CHUNK_DATA:
        return; /* not read byte by byte */
    }
}

/*
 * Take the next piece of a body from `*at`, at most up to `end`.
 *
 * Returns how many bytes of content start at `*piece`, and moves `*at` behind them; 0 once the message is
 * complete or broken, or once all bytes are used up.
 */
static size_t body_take(body_t *body, const char **at, const char *end, const char **piece) {
    while (*at < end && !body->complete && !body->broken) {
        if (body->framing == BODY_CHUNKED && body->state != CHUNK_DATA) {
            chunk_byte(body, *(*at)++);
            continue;
        }
        size_t length = (size_t)(end - *at);
        *piece = *at;
        if (body->framing != BODY_TO_CLOSE) {
            if ((int64_t)length > body->left) length = (size_t)body->left;
            body->left -= (int64_t)length;
            if (body->left == 0 && body->framing == BODY_LENGTH) body->complete = 1;
            if (body->left == 0 && body->framing == BODY_CHUNKED) body->state = CHUNK_DATA_END;
        }
        *at += length;
        return length;
    }
    return 0;
}

#endif
