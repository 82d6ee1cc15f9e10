# Receive webhooks with Ruby 3 and WEBrick.
#
#   WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 ruby receiver.rb
#   ruby receiver.rb --verify schemas/vectors/cases.psv

require "json"
require "openssl"

TOLERANCE_SECONDS = 300
SHORTEST_KEY = 24
LARGEST_BODY = 1_048_576
SHAPES = {
  "webhook-id" => %r{\A[!-+/-~-]{1,256}\z},
  "webhook-timestamp" => /\A[0-9]{1,12}\z/,
  "webhook-signature" => /\A[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}\z/
}.freeze

class InvalidWebhook < StandardError; end

# Decodes the secrets of the environment; both while one is rotated, with a blank between.
def keys_from(text)
  keys = text.to_s.split.map { |secret| secret.delete_prefix("whsec_").unpack1("m0") }
  # An empty key, or half of one, would let anybody sign.
  if keys.empty? || keys.any? { |key| key.bytesize < SHORTEST_KEY }
    raise ArgumentError, "set WEBHOOK_SECRETS to the endpoint's secret, whole, from whsec_ on"
  end

  keys
end

# Returns the event's id. Headers have lower-case names; the body holds the raw bytes of the request.
def verify(headers, body, keys, now)
  SHAPES.each do |name, shape|
    raise InvalidWebhook, "#{name} is missing or malformed" unless shape.match?(headers[name].to_s.b)
  end
  id, timestamp, offered = headers.values_at(*SHAPES.keys)
  if (now - timestamp.to_i).abs > TOLERANCE_SECONDS
    raise InvalidWebhook, "the timestamp is more than five minutes away from now"
  end

  keys.each do |key|
    expected = "v1,#{[OpenSSL::HMAC.digest('SHA256', key, "#{id}.#{timestamp}.".b + body.b)].pack('m0')}"
    return id if offered.split(" ").any? { |entry| OpenSSL.secure_compare(entry, expected) }
  end
  raise InvalidWebhook, "no signature matches"
end

# Takes one event, once: put it into a queue and do the rest later, for the sender waits five seconds.
def work(id, body)
  puts "received #{id} #{JSON.parse(body)['type']}"
end

# Ids of finished events. Yours belong into a table with a unique key, shared by all your processes, for 30 days.
SEEN = {}
LOCK = Mutex.new

def work_once(id, body)
  # One at a time, so that two deliveries of one event cannot both be the first.
  LOCK.synchronize do
    next puts("duplicate #{id}") if SEEN.key?(id)

    work(id, body)
    SEEN[id] = true
    SEEN.shift if SEEN.size > 10_000
  end
end

# Hangs up as well: what is left of the body is not read.
def refuse_size(response)
  response.keep_alive = false
  response.status = 413
end

def receive(request, response, keys)
  return response.status = 405 unless request.request_method == "POST"
  return refuse_size(response) if request["content-length"].to_i > LARGEST_BODY

  # Piece by piece: a chunked body tells its length only at its end.
  body = "".b
  request.body do |piece|
    body << piece
    return refuse_size(response) if body.bytesize > LARGEST_BODY
  end
  headers = SHAPES.keys.to_h { |name| [name, request[name]] }
  work_once(verify(headers, body, keys, Time.now.to_i), body)
  response.status = 204
rescue InvalidWebhook => e
  response.status = 400
  response.body = e.message
end

def check(path)
  File.foreach(path, chomp: true) do |line|
    _, name, now, secrets, id, timestamp, signature, body = line.split("|", -1)
    headers = { "webhook-id" => id, "webhook-timestamp" => timestamp, "webhook-signature" => signature }
    begin
      verify(headers, body.unpack1("m0"), keys_from(secrets), now.to_i)
      puts "accept|#{name}"
    rescue InvalidWebhook
      puts "refuse|#{name}"
    end
  end
end

def serve
  require "webrick"
  keys = keys_from(ENV["WEBHOOK_SECRETS"] || ENV["WEBHOOK_SECRET"])
  server = WEBrick::HTTPServer.new(
    BindAddress: "127.0.0.1", Port: Integer(ENV.fetch("PORT", "9000")), AccessLog: [], RequestTimeout: 10
  )
  # What the work raises is answered with 500, and delivered again later.
  server.mount_proc("/") { |request, response| receive(request, response, keys) }
  %w[INT TERM].each { |name| trap(name) { server.shutdown } }
  puts "receiving on http://127.0.0.1:#{server.listeners.first.addr[1]}/"
  server.start
end

$stdout.sync = true
ARGV[0] == "--verify" ? check(ARGV[1]) : serve
