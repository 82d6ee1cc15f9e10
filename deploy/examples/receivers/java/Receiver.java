// Receive webhooks with the JDK alone (17 or newer).
//
//   WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 java Receiver.java
//   java Receiver.java --verify schemas/vectors/cases.psv

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public final class Receiver {
    private static final long TOLERANCE_SECONDS = 300;
    private static final int SHORTEST_KEY = 24;
    private static final int LARGEST_BODY = 1 << 20;
    private static final Map<String, Pattern> SHAPES = new LinkedHashMap<>();

    static {
        SHAPES.put("webhook-id", Pattern.compile("[!-+/-~-]{1,256}"));
        SHAPES.put("webhook-timestamp", Pattern.compile("[0-9]{1,12}"));
        SHAPES.put("webhook-signature", Pattern.compile("[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}"));
    }

    static final class InvalidWebhook extends Exception {
        InvalidWebhook(String message) {
            super(message);
        }
    }

    /** Decodes the secrets of the environment; both while one is rotated, with a blank between. */
    static List<byte[]> keysFrom(String text) {
        List<byte[]> keys = new ArrayList<>();
        for (String secret : text == null ? new String[0] : text.trim().split("\\s+")) {
            byte[] key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
            // An empty key, or half of one, would let anybody sign.
            if (key.length < SHORTEST_KEY) {
                throw new IllegalArgumentException("set WEBHOOK_SECRETS to the endpoint's secret, whole, from whsec_ on");
            }
            keys.add(key);
        }
        return keys;
    }

    /** Returns the event's id. The header map gives a list for any case of a name; body holds the raw bytes. */
    static String verify(Map<String, List<String>> headers, byte[] body, List<byte[]> keys, long now)
            throws InvalidWebhook, GeneralSecurityException {
        List<String> found = new ArrayList<>();
        for (Map.Entry<String, Pattern> shape : SHAPES.entrySet()) {
            List<String> values = headers.get(shape.getKey());
            if (values == null || values.size() != 1 || !shape.getValue().matcher(values.get(0)).matches()) {
                throw new InvalidWebhook(shape.getKey() + " is missing, repeated or malformed");
            }
            found.add(values.get(0));
        }
        if (Math.abs(now - Long.parseLong(found.get(1))) > TOLERANCE_SECONDS) {
            throw new InvalidWebhook("the timestamp is more than five minutes away from now");
        }
        for (byte[] key : keys) {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            mac.update((found.get(0) + "." + found.get(1) + ".").getBytes(StandardCharsets.US_ASCII));
            byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.US_ASCII);
            for (String entry : found.get(2).split(" ")) {
                if (MessageDigest.isEqual(entry.getBytes(StandardCharsets.UTF_8), expected)) {
                    return found.get(0);
                }
            }
        }
        throw new InvalidWebhook("no signature matches");
    }

    // Ids of finished events. Yours belong into a table with a unique key, shared by all your processes, for 30 days.
    private static final Map<String, Boolean> SEEN =
            new LinkedHashMap<>() {
                @Override
                protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                    return size() > 10_000;
                }
            };

    /** Takes one event, once: put it into a queue and do the rest later, for the sender waits five seconds. */
    static void work(String id, String type, byte[] body) {
        System.out.println("received " + id + " " + type);
    }

    static void receive(HttpExchange exchange, List<byte[]> keys) throws IOException {
        try (exchange) {
            if (!exchange.getRequestMethod().equals("POST")) {
                exchange.sendResponseHeaders(405, -1);
                return;
            }
            byte[] body = exchange.getRequestBody().readNBytes(LARGEST_BODY + 1);
            if (body.length > LARGEST_BODY) {
                exchange.sendResponseHeaders(413, -1);
                return;
            }
            answer(exchange, body, keys);
        }
    }

    static void answer(HttpExchange exchange, byte[] body, List<byte[]> keys) throws IOException {
        try {
            // The server's own map finds a name in any case.
            String id = verify(exchange.getRequestHeaders(), body, keys, Instant.now().getEpochSecond());
            // One at a time, so that two deliveries of one event cannot both be the first.
            synchronized (SEEN) {
                if (SEEN.containsKey(id)) {
                    System.out.println("duplicate " + id);
                } else {
                    work(id, exchange.getRequestHeaders().getFirst("x-webhook-event"), body);
                    SEEN.put(id, true);
                }
            }
            exchange.sendResponseHeaders(204, -1);
        } catch (InvalidWebhook fault) {
            byte[] text = fault.getMessage().getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(400, text.length);
            exchange.getResponseBody().write(text);
        } catch (GeneralSecurityException | RuntimeException fault) {
            // It is delivered again later.
            fault.printStackTrace();
            exchange.sendResponseHeaders(500, -1);
        }
    }

    static void check(Path file) throws IOException, GeneralSecurityException {
        for (String line : Files.readAllLines(file)) {
            String[] field = line.split("\\|", -1);
            Map<String, List<String>> headers = Map.of(
                    "webhook-id", List.of(field[4]),
                    "webhook-timestamp", List.of(field[5]),
                    "webhook-signature", List.of(field[6]));
            String verdict = "accept";
            try {
                verify(headers, Base64.getDecoder().decode(field[7]), keysFrom(field[3]), Long.parseLong(field[2]));
            } catch (InvalidWebhook fault) {
                verdict = "refuse";
            }
            System.out.println(verdict + "|" + field[1]);
        }
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 2 && arguments[0].equals("--verify")) {
            check(Path.of(arguments[1]));
            return;
        }
        Map<String, String> environment = System.getenv();
        List<byte[]> keys = keysFrom(environment.getOrDefault("WEBHOOK_SECRETS", environment.get("WEBHOOK_SECRET")));
        // Nobody holds a thread for longer with half a request; read when the server's classes load.
        System.setProperty("sun.net.httpserver.maxReqTime", "10");
        int port = Integer.parseInt(environment.getOrDefault("PORT", "9000"));
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.setExecutor(Executors.newFixedThreadPool(64));
        server.createContext("/", exchange -> receive(exchange, keys));
        server.start();
        System.out.println("receiving on http://127.0.0.1:" + server.getAddress().getPort() + "/");
    }
}
