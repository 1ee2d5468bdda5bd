//! HTTP/1.1 over a stream: one exchange, client or server; ranges, redirects, proxies, retry.
