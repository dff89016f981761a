/*
 * Judging answers: whether one is whole, and how long its chunks took; and the samples of what was timed.
 */
#ifndef BENCH_CHECK_H
#define BENCH_CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"

#define TEXT_LIMIT 65536

/* --- samples ------------------------------------------------------------------------------- */

typedef struct {
    uint32_t *values; /* tenths of a microsecond */
    size_t count, size;
} samples_t;

static void add_sample(samples_t *samples, uint64_t ns) {
    if (samples->count == samples->size) {
        samples->size = samples->size ? samples->size * 2 : 4096;
        samples->values = realloc(samples->values, samples->size * sizeof *samples->values);
        if (samples->values == NULL) abort();
    }
    uint64_t tenths = ns / 100;
    samples->values[samples->count++] = tenths > UINT32_MAX ? UINT32_MAX : (uint32_t)tenths;
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* The nearest-rank percentile in microseconds. */
static double percentile(const samples_t *samples, double share) {
    size_t rank = (size_t)ceil(share * (double)samples->count);
    return samples->values[rank > 0 ? rank - 1 : 0] / 10.0;
}

static void print_samples(const char *name, samples_t *samples) {
    if (samples->count == 0) {
        printf(",\"%s\":null", name);
        return;
    }
    double sum = 0;
    qsort(samples->values, samples->count, sizeof *samples->values, ascending);
    for (size_t i = 0; i < samples->count; i++) sum += samples->values[i];
    printf(",\"%s\":{\"count\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name,
           samples->count, sum / (double)samples->count / 10.0, percentile(samples, 0.5), percentile(samples, 0.9),
           percentile(samples, 0.99), percentile(samples, 1.0));
}

/* --- answers ------------------------------------------------------------------------------- */

typedef struct {
    int expected;          /* chunks of the stream; 0: the answer is JSON */
    char text[TEXT_LIMIT]; /* of JSON: all of it; of a stream: the line that is being read */
    size_t length;
    int chunks;        /* of the stream, so far */
    int ended;         /* [DONE] has come */
    const char *fault; /* what is wrong with the answer; NULL so far */
} check_t;

static void check_start(check_t *check, int expected) {
    check->expected = expected;
    check->length = 0;
    check->chunks = check->ended = 0;
    check->fault = NULL;
}

/* Whether text is one JSON object whose brackets and strings close; at most 64 deep. */
static int balanced(const char *text, size_t length) {
    uint64_t arrays = 0; /* a bit for each open bracket, the innermost last: whether it is one of an array */
    int depth = 0, quoted = 0;
    while (length > 0 && strchr(" \r\n\t", text[length - 1]) != NULL) length--;
    if (length < 2 || text[0] != '{') return 0;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = 1;
        } else if (c == '{' || c == '[') {
            if (++depth > 64) return 0;
            arrays = arrays << 1 | (c == '[');
        } else if (c == '}' || c == ']') {
            if ((arrays & 1) != (c == ']')) return 0;
            arrays >>= 1;
            if (--depth == 0) return i == length - 1;
        }
    }
    return 0;
}

/* A number of exactly so many digits; -1 where there is none. */
static int64_t digits(const char *text, int count) {
    int64_t value = 0;
    for (int i = 0; i < count; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

/* The mark in an event's data: "@TIME#INDEX". */
static void check_mark(check_t *check, const char *mark, const char *end, uint64_t now, samples_t *delays) {
    if (mark + 2 + TIME_DIGITS + INDEX_DIGITS > end || mark[1 + TIME_DIGITS] != '#') {
        check->fault = "a garbled chunk";
        return;
    }
    int64_t sent = digits(mark + 1, TIME_DIGITS), index = digits(mark + 2 + TIME_DIGITS, INDEX_DIGITS);
    if (sent < 0 || index != check->chunks) {
        check->fault = "a chunk that is lost, doubled or out of order";
        return;
    }
    check->chunks++;
    uint64_t then = (uint64_t)sent * 100;
    add_sample(delays, now > then ? now - then : 0);
}

static void check_event(check_t *check, const char *data, size_t length, uint64_t now, samples_t *delays) {
    const char *mark = memchr(data, '@', length);
    if (check->ended) {
        check->fault = "an event after [DONE]";
    } else if (length == 6 && memcmp(data, "[DONE]", 6) == 0) {
        check->ended = 1;
    } else if (!balanced(data, length)) {
        check->fault = "an event that is not JSON";
    } else if (memmem(data, length, "\"error\"", 7) != NULL) {
        check->fault = "an error event";
    } else if (mark != NULL) {
        check_mark(check, mark, data + length, now, delays);
    }
}

static void check_line(check_t *check, uint64_t now, samples_t *delays) {
    const char *line = check->text;
    size_t length = check->length;
    if (length > 0 && line[length - 1] == '\r') length--;
    if (length == 0 || line[0] == ':') return; /* the end of an event, or a sign of life */
    if (length >= 5 && memcmp(line, "data:", 5) == 0) {
        size_t start = length > 5 && line[5] == ' ' ? 6 : 5;
        check_event(check, line + start, length - start, now, delays);
    } else if (strncmp(line, "event:", 6) != 0 && strncmp(line, "id:", 3) != 0 && strncmp(line, "retry:", 6) != 0) {
        check->fault = "a line that is no event";
    }
}

static void check_piece(check_t *check, const char *piece, size_t length, uint64_t now, samples_t *delays) {
    while (length > 0 && check->fault == NULL) {
        const char *newline = check->expected ? memchr(piece, '\n', length) : NULL;
        size_t taken = newline != NULL ? (size_t)(newline - piece) : length;
        if (check->length + taken >= TEXT_LIMIT) {
            check->fault = "an answer that is far too long";
            return;
        }
        memcpy(check->text + check->length, piece, taken);
        check->length += taken;
        if (newline != NULL) {
            check->text[check->length] = '\0';
            check_line(check, now, delays);
            check->length = 0;
            taken++;
        }
        piece += taken;
        length -= taken;
    }
}

/* What is wrong with an answer that has ended; NULL where nothing is. */
static const char *check_end(const check_t *check) {
    const size_t words = sizeof ANSWER_TEXT - 1;
    if (check->fault != NULL) return check->fault;
    if (check->expected) {
        if (check->length != 0 || !check->ended) return "a stream without its end";
        return check->chunks == check->expected ? NULL : "a stream with too few or too many chunks";
    }
    if (!balanced(check->text, check->length)) return "an answer that is not JSON";
    const char *found = memmem(check->text, check->length, "\"" ANSWER_TEXT "\"", words + 2);
    return found != NULL ? NULL : "an answer without the mock's words";
}

#endif
