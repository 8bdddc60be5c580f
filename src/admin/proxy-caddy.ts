/** Caddy 2.6 and later (Debian 12): a whole Caddyfile. */
import { NOT_REACHED, RETRY_AFTER, TOO_LARGE } from './proxy-errors.ts';
import type { ProxyPlan } from './proxy-plan.ts';

export function caddyText(plan: ProxyPlan): string {
  const { certificate, silenceSeconds, port, httpPort } = plan;
  const host = plan.host.includes(':') ? `[${plan.host}]` : plan.host;
  const headers = plan.headers.map(([key, value]) => `${key} "${value}"`);
  const tls =
    certificate === undefined ? (plan.isPublic ? '' : 'internal') : `${certificate.cert} ${certificate.key}`;
  const globals = [
    ...(httpPort === undefined ? ['auto_https disable_redirects'] : []),
    ...(httpPort === undefined || httpPort === 80 ? [] : [`http_port ${httpPort}`]),
    // A client that connects by address names no host in its greeting.
    ...(plan.isAddress ? [`default_sni ${plan.host}`] : []),
  ];
  return `# Nox behind Caddy. Put this into /etc/caddy/Caddyfile, then: caddy validate --config /etc/caddy/Caddyfile && systemctl reload caddy
# The server must know whom to believe: NOX_TRUSTED_PROXY=127.0.0.1 in /etc/default/nox-api (this proxy's address there).
{
${globals.map((line) => `\t${line}\n`).join('')}	servers {
		protocols h1 h2
		max_header_size ${plan.headerBytes * 2}
		timeouts {
			read_header 20s
			idle 2m
		}
	}
}

https://${host}${port === 443 ? '' : `:${port}`} {
	tls${tls === '' ? '' : ` ${tls}`} {
		protocols tls1.2 tls1.3
	}
	request_body {
		max_size ${plan.bodyBytes}
	}
	header {
		${headers.join('\n\t\t')}
		-Server
		-Via
	}
	# Only WebSockets may leave HTTP: an upgrade to anything else would open a way around this proxy.
	@nox_upgrade {
		header Upgrade *
		not header_regexp Upgrade (?i)^websocket$
	}
	request_header @nox_upgrade -Upgrade
	reverse_proxy ${plan.upstream} {
		# As it comes and as it goes: uploads, long answers, events.
		flush_interval -1
		# The client's own X-Forwarded-* do not pass: Caddy writes them anew for clients that it has no reason to trust.
		header_up -X-Real-IP
		header_up -Forwarded
		# A call is made once: a second try would run the code again.
		lb_try_duration 0
		transport http {
			dial_timeout 5s
			# From the last byte of the request on. A read_timeout would count from the first: no long upload would survive it.
			response_header_timeout ${silenceSeconds}s
			compression off
		}
	}
	handle_errors {
		# An error loses what the answer had.
		header {
			${headers.join('\n\t\t\t')}
			Content-Type application/json
			-Server
			-Via
		}
		@nox_too_large expression {http.error.status_code} == 413
		handle @nox_too_large {
			respond ${quoted(TOO_LARGE)} 413
		}
		handle {
			header Retry-After ${RETRY_AFTER}
			respond ${quoted(NOT_REACHED)} 503
		}
	}
}
`;
}

/** Between double quotes only these are special; none of these texts has a backslash. */
function quoted(text: string): string {
  return `"${text.replaceAll('"', '\\"')}"`;
}
