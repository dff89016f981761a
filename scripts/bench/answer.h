/*
 * What the mock answers, so that the load generator can tell a whole answer from one that was cut or garbled.
 */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#define MODEL "mock-model"

/* Nothing in it needs escaping in JSON: a gateway that parses and writes anew leaves it as it is. */
#define ANSWER_TEXT                                                                                        \
    "The mock upstream always answers with these very words, so that whoever reads them can tell an "       \
    "answer that is whole from one that is cut, mixed up or garbled on its way. It is about as long as a "  \
    "short answer of a small model, some fifty tokens, and then it ends."

/* In every chunk of a stream: "@TIME#INDEX", the clock in tenths of a microsecond and the chunk's number. */
#define TIME_DIGITS 16
#define INDEX_DIGITS 5

#endif
