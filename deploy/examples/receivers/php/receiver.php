<?php
// Receive webhooks with PHP 8.
//
//   WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 php receiver.php
//   php receiver.php --verify schemas/vectors/cases.psv

declare(strict_types=1);

const TOLERANCE_SECONDS = 300;
const SHORTEST_KEY = 24;
const LARGEST_BODY = 1_048_576;
const SHAPES = [
    'webhook-id' => '~\A[!-+/-\~-]{1,256}\z~',
    'webhook-timestamp' => '~\A[0-9]{1,12}\z~',
    'webhook-signature' => '~\A[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}\z~',
];

final class InvalidWebhook extends Exception
{
}

/** Decodes the secrets of the environment; both while one is rotated, with a blank between. */
function keys_from(string $text): array
{
    $keys = [];
    foreach (preg_split('~\s+~', $text, -1, PREG_SPLIT_NO_EMPTY) as $secret) {
        $key = base64_decode(preg_replace('~\Awhsec_~', '', $secret), true);
        // An empty key, or half of one, would let anybody sign.
        if ($key === false || strlen($key) < SHORTEST_KEY) {
            throw new RuntimeException('a secret is no standard base64 of 24 bytes or more: copy it whole, from whsec_ on');
        }
        $keys[] = $key;
    }
    return $keys ?: throw new RuntimeException("set WEBHOOK_SECRETS to the endpoint's secret");
}

/** Returns the event's id. Headers have lower-case names; the body is the raw text of the request. */
function verify(array $headers, string $body, array $keys, int $now): string
{
    foreach (SHAPES as $name => $shape) {
        if (!preg_match($shape, $headers[$name] ?? '')) {
            throw new InvalidWebhook("$name is missing or malformed");
        }
    }
    ['webhook-id' => $id, 'webhook-timestamp' => $timestamp, 'webhook-signature' => $offered] = $headers;
    if (abs($now - (int) $timestamp) > TOLERANCE_SECONDS) {
        throw new InvalidWebhook('the timestamp is more than five minutes away from now');
    }
    foreach ($keys as $key) {
        $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
        foreach (explode(' ', $offered) as $entry) {
            if (hash_equals($expected, $entry)) {
                return $id;
            }
        }
    }
    throw new InvalidWebhook('no signature matches');
}

/** Takes one event, once: put it into a queue and do the rest later, for the sender waits five seconds. */
function work(string $id, string $body): void
{
    error_log("received $id " . json_decode($body, true, 32, JSON_THROW_ON_ERROR)['type']);
}

/** Does the work unless it is done. Yours belongs into a table with a unique key, for 30 days; here: a file per id. */
function work_once(string $id, string $body): void
{
    $folder = getenv('WEBHOOK_INBOX') ?: sys_get_temp_dir() . '/webhook-inbox';
    is_dir($folder) || mkdir($folder, 0700, true);
    $file = fopen($folder . '/' . hash('sha256', $id), 'c+');
    // One at a time, so that two deliveries of one event cannot both be the first; a death frees the lock.
    flock($file, LOCK_EX);
    if (fread($file, 4) === 'done') {
        error_log("duplicate $id");
        return;
    }
    work($id, $body);
    fwrite($file, 'done');
    fclose($file);
}

function receive(): void
{
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        http_response_code(405);
        return;
    }
    $body = file_get_contents('php://input', length: LARGEST_BODY + 1);
    if (strlen($body) > LARGEST_BODY) {
        http_response_code(413);
        return;
    }
    $headers = [];
    foreach (array_keys(SHAPES) as $name) {
        $headers[$name] = $_SERVER['HTTP_' . strtoupper(strtr($name, '-', '_'))] ?? '';
    }
    try {
        $id = verify($headers, $body, keys_from(getenv('WEBHOOK_SECRETS') ?: (string) getenv('WEBHOOK_SECRET')), time());
        work_once($id, $body);
        http_response_code(204);
    } catch (InvalidWebhook $fault) {
        http_response_code(400);
        echo $fault->getMessage();
    } catch (Throwable $fault) {
        // It is delivered again later.
        error_log((string) $fault);
        http_response_code(500);
    }
}

function check(string $path): void
{
    foreach (file($path, FILE_IGNORE_NEW_LINES) as $line) {
        [, $name, $now, $secrets, $id, $timestamp, $signature, $body] = explode('|', $line);
        $headers = ['webhook-id' => $id, 'webhook-timestamp' => $timestamp, 'webhook-signature' => $signature];
        try {
            verify($headers, base64_decode($body, true), keys_from($secrets), (int) $now);
            echo "accept|$name\n";
        } catch (InvalidWebhook) {
            echo "refuse|$name\n";
        }
    }
}

if (PHP_SAPI !== 'cli') {
    receive();
} elseif (($argv[1] ?? '') === '--verify') {
    check($argv[2]);
} else {
    keys_from(getenv('WEBHOOK_SECRETS') ?: (string) getenv('WEBHOOK_SECRET'));
    $address = '127.0.0.1:' . (getenv('PORT') ?: '9000');
    echo "receiving on http://$address/\n";
    pcntl_exec(PHP_BINARY, ['-S', $address, __FILE__]);
}
