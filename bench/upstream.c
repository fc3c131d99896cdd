/* A backend that costs next to nothing: answers chat completions on one port.
 *
 *   upstream PORT INTERVAL_MS CHUNKS
 *
 * A body with "stream":true (any spacing) gets CHUNKS events, one per interval, the
 * last with the usage and [DONE]; any other gets one JSON answer of about 1 KB.
 * HTTP/1.1 with keep-alive; bodies must declare their length. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_FD = 16384, MAX_REQUEST = 1 << 16, MAX_CHUNKS = 1024 };

typedef struct {
  char request[MAX_REQUEST];
  int length, sent, streaming;
} Connection;

static Connection *connections[MAX_FD];
static int streams[MAX_FD], stream_count, chunk_count;
static char *chunks[MAX_CHUNKS], answer[4096];
static const char stream_head[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    "transfer-encoding: chunked\r\n\r\n";

static void compose(void) {
  char text[601], body[2048];
  memset(text, 'a', 600);
  text[600] = 0;
  int length = snprintf(
      body, sizeof body,
      "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"tiny-chat\","
      "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
      "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":412,\"completion_tokens\":201,"
      "\"total_tokens\":613}}",
      text);
  snprintf(answer, sizeof answer,
           "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
           length, body);
  for (int i = 0; i < chunk_count; i++) {
    char event[600];
    int last = i == chunk_count - 1;
    const char *head =
        "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,"
        "\"model\":\"tiny-chat\",\"choices\":[";
    int n = last
                ? snprintf(event, sizeof event,
                           "%s],\"usage\":{\"prompt_tokens\":412,\"completion_tokens\":%d,"
                           "\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
                           head, i, 412 + i)
                : snprintf(event, sizeof event,
                           "%s{\"index\":0,\"delta\":{\"content\":\"tok%d \"},"
                           "\"finish_reason\":null}]}\n\n",
                           head, i);
    if (asprintf(&chunks[i], "%x\r\n%s\r\n%s", n, event, last ? "0\r\n\r\n" : "") < 0)
      exit(1);
  }
}

static void stop_stream(int fd) {
  for (int i = 0; i < stream_count; i++)
    if (streams[i] == fd) streams[i] = streams[--stream_count];
  connections[fd]->streaming = 0;
}

static void hang_up(int fd) {
  if (connections[fd]->streaming) stop_stream(fd);
  connections[fd]->length = 0;
  close(fd);
}

static int say(int fd, const char *text) {
  return send(fd, text, strlen(text), MSG_NOSIGNAL) >= 0 || errno == EAGAIN;
}

/* Bytes of the first whole request held, 0 if there is none yet. */
static int whole_request(Connection *c) {
  char *end = memmem(c->request, c->length, "\r\n\r\n", 4);
  if (!end) return 0;
  char saved = *end;
  *end = 0;
  char *declared = strcasestr(c->request, "\ncontent-length:");
  int body = declared ? atoi(declared + 16) : 0;
  *end = saved;
  int total = end + 4 - c->request + body;
  return c->length >= total ? total : 0;
}

static void serve(int fd) {
  Connection *c = connections[fd];
  int got = read(fd, c->request + c->length, MAX_REQUEST - 1 - c->length);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) hang_up(fd);
    return;
  }
  c->length += got;
  int total;
  while ((total = whole_request(c))) {
    int streamed = memmem(c->request, total, "\"stream\":true", 13) ||
                   memmem(c->request, total, "\"stream\": true", 14);
    if (!say(fd, streamed ? stream_head : answer)) {
      hang_up(fd);
      return;
    }
    if (streamed && !c->streaming) {
      c->streaming = 1;
      c->sent = 0;
      streams[stream_count++] = fd;
    }
    c->length -= total;
    memmove(c->request, c->request + total, c->length);
  }
}

static void tick(void) {
  for (int i = stream_count - 1; i >= 0; i--) {
    int fd = streams[i];
    Connection *c = connections[fd];
    if (!say(fd, chunks[c->sent]))
      hang_up(fd);
    else if (++c->sent == chunk_count)
      stop_stream(fd);
  }
}

int main(int count, char **values) {
  if (count != 4 || (chunk_count = atoi(values[3])) < 1 || chunk_count > MAX_CHUNKS) {
    fputs("usage: upstream PORT INTERVAL_MS CHUNKS\n", stderr);
    return 2;
  }
  compose();
  int one = 1, poll = epoll_create1(0);
  int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(atoi(values[1])),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(door, (void *)&address, sizeof address) || listen(door, 1024)) {
    perror("upstream");
    return 1;
  }
  int clock = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  long nanoseconds = atol(values[2]) * 1000000L;
  struct itimerspec interval = {{0, nanoseconds}, {0, nanoseconds}};
  timerfd_settime(clock, 0, &interval, 0);
  int watched[] = {door, clock};
  for (int i = 0; i < 2; i++) {
    struct epoll_event event = {EPOLLIN, {.fd = watched[i]}};
    epoll_ctl(poll, EPOLL_CTL_ADD, watched[i], &event);
  }
  struct epoll_event events[256];
  for (;;) {
    int ready = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd, client;
      unsigned long long ticks;
      if (fd == clock) {
        if (read(clock, &ticks, sizeof ticks) == sizeof ticks) tick();
      } else if (fd != door) {
        serve(fd);
      } else {
        while ((client = accept4(door, 0, 0, SOCK_NONBLOCK)) >= 0) {
          if (client >= MAX_FD) {
            close(client);
            continue;
          }
          setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          if (!connections[client]) connections[client] = calloc(1, sizeof(Connection));
          connections[client]->length = connections[client]->streaming = 0;
          struct epoll_event event = {EPOLLIN, {.fd = client}};
          epoll_ctl(poll, EPOLL_CTL_ADD, client, &event);
        }
      }
    }
  }
}
