/* Clients of streamed answers: so many at once, each so many times in a row.
 *
 *   streams PORT CLIENTS ROUNDS KEY
 *
 * Clients start 10 ms apart. Prints one line: complete failed p50_ms p99_ms, the times
 * being those of whole streams. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 4096, TAIL = 32 };

typedef struct {
  int fd, left;
  double began;
  char tail[TAIL + 1];
} Client;

static Client clients[MAX_CLIENTS];
static char request[4096];
static int request_length, port, poll_fd, running, complete, failed;
static double *times;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void ask(Client *c) {
  c->began = now();
  memset(c->tail, 0, sizeof c->tail);
  if (send(c->fd, request, request_length, MSG_NOSIGNAL) != request_length) {
    perror("send");
    exit(1);
  }
}

static void start(Client *c, int rounds) {
  int one = 1;
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&address, sizeof address)) {
    perror("connect");
    exit(1);
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event event = {EPOLLIN, {.ptr = c}};
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event);
  c->left = rounds;
  running++;
  ask(c);
}

static void end(Client *c, int whole) {
  if (whole)
    times[complete++] = now() - c->began;
  else
    failed++;
  if (whole && --c->left) {
    ask(c);
    return;
  }
  close(c->fd);
  running--;
}

static void hear(Client *c) {
  char bytes[65536 + TAIL];
  int kept = strlen(c->tail);
  memcpy(bytes, c->tail, kept);
  int got = recv(c->fd, bytes + kept, 65536, 0);
  if (got <= 0) {
    end(c, 0);
    return;
  }
  int length = kept + got, keep = length < TAIL ? length : TAIL;
  memcpy(c->tail, bytes + length - keep, keep);
  c->tail[keep] = 0;
  if (length >= 5 && !memcmp(bytes + length - 5, "0\r\n\r\n", 5))
    end(c, memmem(bytes, length, "[DONE]", 6) != 0);
  else if (memmem(bytes, length, "HTTP/1.1 ", 9) && !memmem(bytes, length, "HTTP/1.1 200", 12))
    end(c, 0);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int count, char **values) {
  if (count != 5) {
    fputs("usage: streams PORT CLIENTS ROUNDS KEY\n", stderr);
    return 2;
  }
  port = atoi(values[1]);
  int wanted = atoi(values[2]), rounds = atoi(values[3]);
  if (wanted < 1 || wanted > MAX_CLIENTS) return 2;
  times = calloc((size_t)wanted * rounds, sizeof *times);
  char body[3000], prompt[1941];
  memset(prompt, 'x', 1940);
  prompt[1940] = 0;
  int length = snprintf(body, sizeof body,
                        "{\"model\":\"tiny-chat\",\"stream\":true,\"max_tokens\":256,"
                        "\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                        prompt);
  request_length = snprintf(request, sizeof request,
                            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                            "authorization: Bearer %s\r\ncontent-type: application/json\r\n"
                            "content-length: %d\r\n\r\n%s",
                            values[4], length, body);
  poll_fd = epoll_create1(0);
  int started = 0;
  double next = now();
  struct epoll_event events[256];
  while (started < wanted || running) {
    if (started < wanted && now() >= next) {
      start(&clients[started++], rounds);
      next += 10;
    }
    int ready = epoll_wait(poll_fd, events, 256, started < wanted ? 1 : 1000);
    for (int i = 0; i < ready; i++) hear(events[i].data.ptr);
  }
  qsort(times, complete, sizeof *times, by_size);
  printf("%d %d %.2f %.2f\n", complete, failed, complete ? times[complete / 2] : 0.0,
         complete ? times[(int)(complete * 0.99)] : 0.0);
  return 0;
}
