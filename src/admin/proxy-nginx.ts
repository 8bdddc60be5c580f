/** nginx 1.22 and later (Debian 12): one file for /etc/nginx/conf.d. */
import { NOT_REACHED, RETRY_AFTER, TOO_LARGE } from './proxy-errors.ts';
import type { ProxyPlan } from './proxy-plan.ts';

export function nginxText(plan: ProxyPlan): string {
  const { certificate, silenceSeconds } = plan;
  const name = plan.host.includes(':') ? `[${plan.host}]` : plan.host;
  const headers = plan.headers.map(([key, value]) => `add_header ${key} "${value}" always;`);
  const silence = `${silenceSeconds}s`;
  return `# Nox behind nginx. Put this into /etc/nginx/conf.d/nox.conf, then: nginx -t && systemctl reload nginx
# The server must know whom to believe: NOX_TRUSTED_PROXY=127.0.0.1 in /etc/default/nox-api (this proxy's address there).

# Only WebSockets may leave HTTP: an upgrade to anything else would open a way around this proxy.
map $http_upgrade $nox_upgrade {
    default "";
    ~*^websocket$ websocket;
}
map $http_upgrade $nox_connection {
    default "";
    ~*^websocket$ upgrade;
}

upstream nox {
    server ${plan.upstream} max_fails=0;
    keepalive 16;
}
${plan.httpPort === undefined ? '' : clearText(plan, name)}
server {
    # nginx 1.25 and later calls this way of asking for HTTP/2 deprecated; 1.22 knows no other.
    listen ${plan.port} ssl http2;
    listen [::]:${plan.port} ssl http2;
    server_name ${name};
    server_tokens off;

    ssl_certificate ${certificate?.cert ?? ''};
    ssl_certificate_key ${certificate?.key ?? ''};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:nox:1m;
    ssl_session_tickets off;

    client_max_body_size ${plan.bodyBytes};
    client_header_timeout 20s;
    client_body_timeout 60s;
    send_timeout 60s;
    # The server refuses by name what is beyond its own ${plan.headerBytes} bytes.
    large_client_header_buffers 4 ${plan.headerBytes};

    ${headers.join('\n    ')}
    error_page 413 @nox_too_large;
    error_page 502 504 =503 @nox_not_reached;

    location / {
        proxy_pass http://nox;
        proxy_http_version 1.1;
        # As it comes and as it goes: uploads, long answers, events.
        proxy_request_buffering off;
        proxy_buffering off;
        # What the client sent under these names does not pass.
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $host;
        proxy_set_header X-Real-IP "";
        proxy_set_header Forwarded "";
        proxy_set_header Host $http_host;
        proxy_set_header Authorization $http_authorization;
        proxy_set_header Upgrade $nox_upgrade;
        proxy_set_header Connection $nox_connection;
        # A call is made once: a second try would run the code again.
        proxy_next_upstream off;
        proxy_connect_timeout 5s;
        proxy_send_timeout ${silence};
        proxy_read_timeout ${silence};
        proxy_hide_header X-Powered-By;
    }
    location @nox_too_large {
        internal;
        default_type application/json;
        ${headers.join('\n        ')}
        return 413 '${TOO_LARGE}';
    }
    location @nox_not_reached {
        internal;
        default_type application/json;
        ${headers.join('\n        ')}
        add_header Retry-After ${RETRY_AFTER} always;
        return 503 '${NOT_REACHED}';
    }
}
`;
}

function clearText({ httpPort, port, isPublic }: ProxyPlan, name: string): string {
  const challenge = isPublic
    ? `    # certbot --webroot -w /var/www/html
    location ^~ /.well-known/acme-challenge/ {
        root /var/www/html;
    }
`
    : '';
  return `
server {
    listen ${httpPort ?? ''};
    listen [::]:${httpPort ?? ''};
    server_name ${name};
    server_tokens off;
${challenge}    location / {
        return 308 https://${name}${port === 443 ? '' : `:${port}`}$request_uri;
    }
}
`;
}
